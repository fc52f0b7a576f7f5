"""Repeats: what is written as copies of one class, and what must not be."""

import torch

from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from einspace.repeats import Loop, parts
from ops.spec import seq

FACE = Interface({"x": seq(5, 8)}, seq(5, 8))


def test_equal_neighbours_are_copies_of_one_class() -> None:
    found = compile_text("(residual(rms_norm >> linear(dim=8))) * 3", FACE)
    (loop,) = parts(found.graph)
    assert isinstance(loop, Loop)
    assert len(loop.copies) == 3


def test_a_shared_module_is_one_module_however_often_its_segment_comes_again() -> None:
    text = "let s = linear(dim=8) >> relu >> rms_norm; s * 3"
    found = compile_text(text, FACE)
    model = load(found.source)()
    assert sum(p.numel() for p in model.parameters()) == found.params == 8 * 8 + 8 + 8
    x = torch.randn(2, 5, 8)
    once = load(compile_text("linear(dim=8) >> relu >> rms_norm", FACE).source)()
    once.load_state_dict(model.state_dict())
    assert torch.equal(model(x), once(once(once(x))))


def test_a_module_shared_inside_a_copy_does_not_keep_the_copies_apart() -> None:
    text = "net = (fork(id, relu) >> each(tied(linear(dim=8))) >> add >> gelu) * 3;"
    found = compile_text(text, FACE)
    (loop,) = parts(found.graph)
    assert isinstance(loop, Loop)
    model = load(found.source)()
    assert sum(p.numel() for p in model.parameters()) == found.params == 3 * (8 * 8 + 8)
