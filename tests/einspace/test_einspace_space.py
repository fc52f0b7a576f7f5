"""The einspace spaces: radii as published, three bugs repaired, seven seeds with their leaves."""

import random

import pytest
import torch

from einspace.candidates import Frame, frame, sample
from einspace.compile import Closed, Compiled, compile_derivation, compile_text
from einspace.interface import Interface
from einspace.library import shipped, space_source
from einspace.load import load
from einspace.types import Typing
from grammar.ast import Arg, Call, Expr, Seq, Space
from grammar.derive import derive
from grammar.errors import SpaceError
from grammar.mutate import Mutation
from grammar.parse import parse
from grammar.pcfg import Checked, check_space, with_values
from grammar.show import show
from grammar.walk import Limits, Sample
from ops import table
from ops.spec import TensorType, image, scores, seq
from search.texts import compiled
from tests.ops.case import close

IMAGE = Interface({"x": image(3, 64, 64)}, scores(10))
SMALL = Interface({"x": image(3, 16, 16)}, scores(10))
SIGNAL = Interface({"x": seq(128, 4)}, scores(10))
SPACES = {"einspace": SMALL, "einspace-1d": SIGNAL}
SEEDS = {
    "resnet18": 119,
    "resnet18_no_maxpool": 121,
    "resnet34_no_maxpool": 225,
    "resnet10": 61,
    "wrn16_4": 89,
    "einspace_vit": 220,
    "einspace_mixer": 116,
}


def checked(name: str, p: float) -> Checked:
    space = with_values(parse(space_source(name).text, name), {"p": p})
    return check_space(space, Typing(table(), SPACES[name]).signatures, ("x",))


@pytest.mark.parametrize("name", SPACES)
def test_the_radii_are_those_of_the_original(name: str) -> None:
    default, small = checked(name, 0.32), checked(name, 0.6)
    assert default.radius == pytest.approx(13 / 3 * 0.68 / 3)
    assert round(default.radius, 3) == 0.982
    assert round(default.materialised, 3) == 1.738
    assert round(small.materialised, 3) == 1.022
    assert any("1.738" in warning for warning in default.warnings)
    assert checked(name, 0.7).materialised < 1


def learn(found: Compiled, x: torch.Tensor) -> torch.Tensor:
    """One forward and one backward; every parameter must get a finite gradient."""
    torch.manual_seed(0)
    model = load(found.source)()
    y, aux, stats = model.forward_aux(x)
    model.update(stats)
    (y.square().mean() + aux).backward()
    assert sum(p.numel() for p in model.parameters()) == found.params
    for p in model.parameters():
        assert p.grad is not None
        assert p.grad.isfinite().all()
    return y


@pytest.mark.parametrize("name", SPACES)
def test_what_is_drawn_is_built_and_learns(name: str) -> None:
    interface = SPACES[name]
    x = torch.randn(2, *interface.inputs["x"].shape)
    known = frame(name, interface, max_params=200_000, max_nodes=40, values={"p": 0.6})
    ids = set()
    for i in range(25):
        drawn = sample(known, random.Random(i))
        found = compile_text(drawn.text, interface)
        assert found.params == drawn.params <= 200_000
        assert learn(found, x).shape == (2, 10)
        ids.add(drawn.hash)
    assert len(ids) > 15


# -- the three repairs ---------------------------------------------------------------------------

WINDOWS = "im2col(kernel=4, stride=4)"


def built(text: str, kind: TensorType) -> tuple[Compiled, torch.Tensor]:
    found = compile_text(text, Interface({"x": kind}))
    return found, load(found.source)()(torch.randn(2, *kind.shape))


@pytest.mark.parametrize("copies", [2, 4, 8])
@pytest.mark.parametrize("nested", [2, 4, 8])
def test_cat_takes_as_many_values_as_there_are_branches(copies: int, nested: int) -> None:
    inner = f"clone(copies={nested}) >> each(id) >> cat(axis=1)"
    found, y = built(f"clone(copies={copies}) >> each({inner}) >> cat(axis=2)", image(3, 4, 5))
    assert found.output == f"image[{3 * nested},{4 * copies},5]"
    assert y.shape == (2, 3 * nested, 4 * copies, 5)


def many(name: str, known: Interface) -> Frame:
    """The space, started in its branch of four or eight."""
    text = space_source(name).text
    start, rest = text.split("\nS      = ")
    lines = [li for li in start.splitlines() if not li.startswith("net")]
    body = rest.split("\n", 1)[1]
    turns = "permute(order=[2,1])" if name == "einspace-1d" else "id"
    whole = "\n".join([f"net = {turns} >> many >> {turns} >> head;", *lines, body])
    return frame(whole, known, max_params=200_000, max_nodes=60, values={"p": 0.6})


def copies_of(closed: Space) -> list[str]:
    """The texts of the branches of the outermost `each`."""
    assert isinstance(closed.final, Seq)
    for item in closed.final.items:
        if isinstance(item, Call) and item.name == "each":
            return [text(arg) for arg in item.args]
    inner = next(i for i in closed.final.items if isinstance(i, Seq))
    return copies_of(Space((), inner))


def text(arg: Arg) -> str:
    value: Expr = arg.value
    return show(Space((), value))


@pytest.mark.parametrize("name", SPACES)
def test_a_mutation_inside_a_wide_branch_reaches_every_copy(name: str) -> None:
    """In the original it changed the last copy, or none: 49.5 % of the nodes of its ViT."""
    known, changed, total = many(name, SPACES[name]), 0, 0
    for i in range(6):
        parent, _ = derive(known.space, Sample(random.Random(i)), known.typing, known.limits)
        before = copies_of(parent.closed)
        assert len(before) in (4, 8)
        assert len(set(before)) == 1
        for root in sorted(a for a in parent.trace if "/same" in a)[:4]:
            chooser = Mutation(parent.trace, root, random.Random(i))
            child, _ = derive(known.space, chooser, known.typing, known.limits)
            after = copies_of(child.closed)
            assert len(set(after)) == 1
            changed += before[0] != after[0]
            total += 1
    # the rest: nothing else fits there, or the same text came up again
    assert changed > 0.6 * total > 6


def test_in_column_mode_the_head_averages_over_tokens() -> None:
    found = compile_text(f"{WINDOWS} >> head", Interface({"x": image(3, 64, 64)}, scores(10)))
    model, x = load(found.source)(), torch.randn(2, 3, 64, 64)
    (weight,) = [p for p in model.parameters() if p.dim() == 2]
    (bias,) = [p for p in model.parameters() if p.dim() == 1]
    assert weight.shape == (10, 48)  # features; 256 tokens in the original
    columns = torch.nn.functional.unfold(x, 4, stride=4).mT
    close(model(x), columns.mean(1) @ weight.T + bias, scale=10)


def test_norm_is_batch_norm_in_image_mode_and_layer_norm_in_column_mode() -> None:
    found, y = built(f"norm >> {WINDOWS} >> norm", image(3, 8, 8))
    assert found.output == "seq[4,48]"
    assert found.params == 2 * 3 + 2 * 48
    close(y.mean(-1), torch.zeros(2, 4), scale=10)


# -- the seeds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "leaves"), SEEDS.items())
def test_a_seed_has_the_leaves_of_the_original_and_learns(name: str, leaves: int) -> None:
    seed = shipped("seeds")[name]
    typing = Typing(table(), IMAGE)
    derivation, _ = derive(parse(seed.text, name), Closed(), typing, Limits())
    assert derivation.nodes - 1 == leaves  # the head is no leaf
    found = compile_derivation(derivation, typing)
    assert learn(found, torch.randn(2, 3, 64, 64)).shape == (2, 10)


def test_the_mixer_has_the_size_of_the_original() -> None:
    found = compile_text(shipped("seeds")["einspace_mixer"].text, IMAGE)
    assert 6.4e6 < found.params < 6.55e6  # 6.5 M at 64 x 64


def test_an_input_type_may_name_what_the_head_aims_at() -> None:
    found = compiled("einspace_mixer", kind="image[3,64,64] -> scores[7]")
    assert found.output == "scores[7]"
    with pytest.raises(SpaceError, match="nothing to aim at"):
        compiled("einspace_mixer", kind="image[3,64,64]")
    with pytest.raises(SpaceError, match="is not a type"):
        compiled("einspace_mixer", kind="image[3,64,64] ->")
