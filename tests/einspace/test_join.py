"""Sums made by the norm that reads them: same architecture, same numbers, fewer lines."""

import pytest
import torch
from torch import Tensor, nn

from einspace.compile import Compiled, compile_text
from einspace.emit import emit
from einspace.interface import Interface
from einspace.load import load
from einspace.passes.join import FUSIONS, hold_sums
from einspace.rewrite import simplify
from ops import table
from ops.spec import image, seq, tokens

FACE = Interface({"x": seq(5, 8)}, seq(5, 8))
BLOCK = "residual(rms_norm >> linear(dim=8)) >> residual(layer_norm >> gelu)"


def apart(found: Compiled) -> str:
    """The file without the fusion."""
    return emit(table(), found.graph, found.text, found.hash, found.totals)


def twins(found: Compiled) -> tuple[nn.Module, nn.Module]:
    """The fused and the plain model with the same weights."""
    torch.manual_seed(0)
    fused, plain = load(found.source)(), load(apart(found))()
    for p in fused.parameters():
        nn.init.normal_(p)
    plain.load_state_dict(fused.state_dict())  # strict: the names are the same
    return fused, plain


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    y = model(x)
    return y, *torch.autograd.grad(y.square().sum(), tuple(model.parameters()))


@pytest.mark.parametrize(
    "text",
    [
        f"({BLOCK}) * 3 >> rms_norm",  # carried through a loop, taken after it
        f"linear(dim=8) >> ({BLOCK}) * 3 >> linear(dim=8)",  # no norm after the loop: added there
        f"{BLOCK} >> rms_norm >> linear(dim=8)",  # no loop
        f"(({BLOCK}) * 2 >> residual(srms_norm >> relu)) * 2 >> rms_norm",  # loops in a loop
        f"residual({BLOCK} >> rms_norm) >> layer_norm",  # its parts die late
        "let n = rms_norm; residual(n >> gelu) >> n >> residual(n >> relu)",  # one shared norm
        "residual(gelu) >> residual(rms_norm >> gelu) >> residual(srms_norm) >> rms_norm",
    ],
)
def test_outputs_gradients_and_names_are_those_of_the_plain_file(text: str) -> None:
    found = compile_text(text, FACE)
    assert ".joined(" in found.source
    fused, plain = twins(found)
    x = torch.randn(2, 5, 8)
    for mine, other in zip(gradients(fused, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(mine, other)


def test_every_sum_between_pre_norm_blocks_is_held_and_none_is_written() -> None:
    found = compile_text(f"({BLOCK}) * 3 >> rms_norm", FACE)
    held = [n for n in simplify(found.graph, FUSIONS).nodes if n.held]
    assert len(held) == 6
    model = found.source.partition("class Model(")[2].partition("\ndef ")[0]
    assert "class Block(" in model
    assert " + " not in model


def test_a_step_carries_the_sum_too() -> None:
    text = "embed(dim=8) >> (residual(rms_norm >> min_gru) >> residual(rms_norm >> swiglu)) * 2"
    face = Interface({"x": tokens(6, 11)}, seq(6, 11), causal=True)
    fused, _ = twins(compile_text(f"{text} >> rms_norm >> head", face))
    x = torch.randint(1, 11, (2, 6))
    state, rows = fused.init_state(2, 6), []
    for t in range(6):
        y, state = fused.step(x[:, t : t + 1], state)
        rows.append(y)
    torch.testing.assert_close(torch.cat(rows, 1), fused(x))


def test_losses_of_the_blocks_pass_through_a_carried_loop() -> None:
    text = "(residual(rms_norm >> moe(experts=2, active=2)) >> residual(rms_norm >> gelu)) * 2"
    found = compile_text(f"{text} >> rms_norm", FACE)
    fused, plain = twins(found)
    x = torch.randn(2, 5, 8)
    for mine, other in zip(fused.forward_aux(x)[:2], plain.forward_aux(x)[:2], strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    "text",
    [
        "residual(gelu) >> linear(dim=8)",  # no norm
        "residual(gelu) >> relu >> rms_norm",  # not the very next
        "add(id, gelu, relu) >> rms_norm",  # three parts
        "residual(gelu) >> batch_norm",  # a norm over the batch
    ],
)
def test_it_does_not_fire(text: str) -> None:
    found = compile_text(text, FACE)
    assert hold_sums(found.graph) is None
    assert ".joined(" not in found.source


def test_it_does_not_fire_on_images() -> None:
    face = Interface({"x": image(3, 4, 4)}, image(3, 4, 4))
    assert hold_sums(compile_text("residual(relu) >> rms_norm", face).graph) is None
