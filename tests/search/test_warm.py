"""Warming: which architectures, what a step is told of Triton, and what comes of faults."""

import sys
from typing import Any

import pytest
import torch

from einspace.library import resolve
from search import warm
from search.tasks import find

SPACE = "net = conv2d(dim=4|8, kernel=3) >> relu >> head;"


def test_draws_are_different_and_the_seeds_of_the_task_come_too() -> None:
    nets = warm.chosen(SPACE, find("mnist5k"), 5, 0)
    texts = [net.text for net in nets]
    assert len(set(texts)) == len(texts)
    own = [t for t in texts if t.startswith("conv2d(dim=4") or t.startswith("conv2d(dim=8")]
    assert len(own) >= 2
    assert warm.chosen(SPACE, find("mnist5k"), 5, 0) == nets
    assert len(nets) > 2  # vit, resnet ...
    assert resolve("vit")[1] == "mnist5k"


def test_a_step_is_taken_and_what_triton_says_meanwhile_is_kept() -> None:
    knobs = pytest.importorskip("triton.knobs", reason="needs triton")

    class Chatty(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.forward_aux(x)[0]

        def forward_aux(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, object]:
            listener: Any = knobs.compilation.listener
            for name, hit in (("a", False), ("b", True)):
                listener(src=0, metadata={"hash": name * 3, "name": name}, times=0, cache_hit=hit)
            return self.head(x.flatten(1)), x.new_zeros(()), None

        def update(self, stats: object) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("einspace.load.load", lambda source: Chatty)
        row = warm.take_step(warm.Job("net", "", ""), "digits", "cpu")
    assert (row.error, row.engine) == ("", "eager: on the CPU")
    assert (dict(row.compiled), dict(row.found)) == ({"aaa": "a"}, {"bbb": "b"})
    assert knobs.compilation.listener is None


def test_a_fault_is_a_line_of_the_report_and_other_rows_go_on() -> None:
    nets = warm.chosen(SPACE, find("digits"), 1, 0)[:1]
    bad = warm.Job("bad", "class Model: pass", "")
    row = warm.take_step(bad, "digits", "cpu")
    assert "AssertionError" in row.error
    good = list(warm.warm(nets, "digits", device="cpu", processes=2))
    assert [r.error for r in good] == [""]
    found = warm.summary([row, *good], 1.5)
    assert (found["architectures"], found["failed"]) == (2, {"bad": row.error})
    assert found["eager"] == {good[0].text: "eager: on the CPU"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_second_time_everything_is_on_disk(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    space = "net = embed(dim=64) >> residual(rms_norm >> swiglu(mult=2|3)) >> rms_norm >> head;"
    nets = [n for n in warm.chosen(space, find("mad_copy"), 2, 0) if "swiglu" in n.text][:2]
    first = warm.summary(list(warm.warm(nets, "mad_copy", device="cuda", processes=2)), 0.0)
    assert first["failed"] == {}
    assert first["eager"] == {}
    assert int(str(first["compiled"])) > 0
    again = warm.summary(list(warm.warm(nets, "mad_copy", device="cuda", processes=2)), 0.0)
    assert again["compiled"] == 0
    assert again["kernels"] == first["kernels"]
