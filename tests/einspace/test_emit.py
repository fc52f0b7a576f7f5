"""Emitted models compute what the graph says, decode as they train, and read like code."""

import random

import pytest
import torch

from einspace.candidates import frame, sample
from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.library import resolve, shipped
from einspace.load import load
from grammar.errors import SpaceError
from ops.spec import image, scores, seq, tokens
from search.tasks import find
from tests.einspace.oracle import built, interpret, random_input

LM = Interface({"tokens": tokens(32, 84)}, seq(32, 84), causal=True)
# What a seed without a task in its header was written for.
LARGE_IMAGE = Interface({"x": image(3, 64, 64)}, scores(10))


def agrees(text: str, interface: Interface) -> None:
    compiled = compile_text(text, interface)
    model = built(compiled)
    inputs = [random_input(t) for t in interface.inputs.values()]
    torch.testing.assert_close(model(*inputs), interpret(compiled, model, inputs))
    assert sum(p.numel() for p in model.parameters()) == compiled.params


@pytest.mark.parametrize("name", sorted(shipped("seeds")))
def test_seeds_compute_what_the_oracle_computes(name: str) -> None:
    source, task = resolve(name)
    agrees(source.text, find(task).interface if task else LARGE_IMAGE)


# The einspace spaces are drawn from under small limits, in test_einspace_space.py: without them one
# draw of theirs can take minutes.
@pytest.mark.parametrize("name", sorted(set(shipped("spaces")) - {"einspace", "einspace-1d"}))
def test_samples_compute_what_the_oracle_computes(name: str) -> None:
    _, task = resolve(name)
    assert task is not None
    interface = find(task).interface
    place, rng = frame(name, interface), random.Random(1)
    for _ in range(8):
        agrees(sample(place, rng).text, interface)


def test_repeated_blocks_become_one_class() -> None:
    source = compile_text(
        "embed(dim=16) >> (residual(rms_norm >> softmax_attn(heads=2, causal)) "
        ">> residual(rms_norm >> mlp(mult=2))) * 5 >> rms_norm >> head",
        LM,
    ).source
    assert source.count("class Block") == 1
    assert "Block() for _ in range(5)" in source


def test_step_by_step_decoding_equals_the_whole() -> None:
    compiled = compile_text(
        "embed(dim=16) >> (residual(rms_norm >> softmax_attn(heads=2, causal, pos=rope)) "
        ">> residual(rms_norm >> lightning(heads=2))) * 2 >> gru >> rms_norm >> head",
        LM,
    )
    model = built(compiled)
    x = random_input(tokens(32, 84))
    with torch.no_grad():
        whole, state = model(x), model.init_state(2, 32)
        for t in range(32):
            y, state = model.step(x[:, t : t + 1], state)
            torch.testing.assert_close(y[:, 0], whole[:, t], rtol=1e-4, atol=1e-4)


def test_one_module_used_twice_is_registered_once() -> None:
    once = compile_text("let m = linear(dim=8); m >> m", Interface({"x": seq(4, 8)}))
    twice = compile_text("linear(dim=8) >> linear(dim=8)", Interface({"x": seq(4, 8)}))
    assert once.params == 72
    assert twice.params == 144
    model = load(once.source)()
    assert len(list(model.parameters())) == 2
    agrees("let m = linear(dim=8); m >> relu >> m", Interface({"x": seq(4, 8)}))


def test_running_statistics_move_only_in_update() -> None:
    compiled = compile_text(
        "conv2d(dim=4, kernel=3) >> batch_norm >> head",
        Interface({"image": image(1, 8, 8)}, scores(3)),
    )
    model = load(compiled.source)().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    _, _, stats = model.forward_aux(random_input(image(1, 8, 8)) + 3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.update(stats)
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "text",
    [
        '__import__("os") >> head',
        'embed(dim=16, name="x\\"; import os") >> head',
        "../../etc/passwd",
        'embed(dim="16") >> head',
    ],
)
def test_code_in_a_text_never_reaches_the_file(text: str) -> None:
    with pytest.raises(SpaceError):
        compile_text(text, LM)


def test_comments_do_not_reach_the_code() -> None:
    source = compile_text('# """\n# import os\nembed(dim=16) >> head', LM).source
    assert "import os" not in source
    load(source)


def test_torch_export_agrees_with_the_model() -> None:
    compiled = compile_text(resolve("gpt")[0].text, find("shakespeare").interface)
    model = built(compiled)
    (kind,) = find("shakespeare").interface.inputs.values()
    x = random_input(kind)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
