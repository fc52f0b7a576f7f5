"""The turnaround's page and texts; what runs on a GPU is not tried here."""

import torch

from benchmarks.turnaround.__main__ import chosen
from benchmarks.turnaround.methods import feed_of, rows_of, task_of
from benchmarks.turnaround.page import page
from benchmarks.turnaround.texts import SIZES, texts

CPU = torch.device("cpu")


def test_there_are_thirty_architectures_of_which_eighteen_nine_and_three() -> None:
    sizes = [size for size, _ in texts()]
    assert [sizes.count(name) for name in SIZES] == [18, 9, 3]
    assert len(set(texts().values())) == 30
    assert len(chosen("small")) == 18
    assert chosen("large/rope,middle/llama") == [("middle", "llama"), ("large", "rope")]


def test_rows_are_a_chain_with_four_successors_a_token() -> None:
    rows = rows_of("small", CPU)
    assert torch.equal(rows.x[:, 1:], rows.y[:, :-1])
    pairs = set(zip(rows.x.flatten().tolist(), rows.y.flatten().tolist(), strict=True))
    assert len(pairs) <= 4 * 256
    assert feed_of("small", rows, CPU, kernels=False).next()[0].shape == (64, 256)
    assert task_of("small", kernels=True).interface.causal


def test_a_row_counts_where_all_methods_have_it_and_losses_are_compared() -> None:
    def row(step: float, total: float, losses: list[float]) -> dict[str, object]:
        more = {"compile": 0.02, "load": 0.01, "capture": 0.05, "setup": 0.08}
        return {"step": step, "total": total, "losses": losses, **more}

    rows = {
        ("captured", "small/rope"): row(1e-3, 1.0, [5.0, 4.0]),
        ("eager", "small/rope"): row(5e-3, 4.0, [5.0, 4.01]),
        ("compile", "small/rope"): row(2e-3, 8.0, [5.0, 4.0]),
        ("exact", "small/rope"): {"losses": [5.0, 4.0]},
        ("captured", "small/gpt"): row(3e-3, 9.0, [5.0, 4.5]),
        ("eager", "small/gpt"): row(3e-3, 9.0, [5.0, 4.01]),
        ("exact", "small/gpt"): {"losses": [5.0, 4.0]},
        ("compile", "small/gpt"): {"error": "no"},
    }
    text = page(rows)
    assert "| all | 1 | 1.0 | 4.0 | 8.0 | 4.00 | 8.00 |" in text
    assert "torch.compile's: 1 of 1" in text
    assert "1 of 2; not small/gpt (0.500 against 0.010)" in text
    assert "failed: compile small/gpt: no" in text
