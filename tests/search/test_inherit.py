"""Weight inheritance: which tensors a child starts from, what is stored, and what is told."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from einspace.candidates import frame, sample
from einspace.compile import compile_text
from einspace.load import load
from einspace.result import TrialRecord
from grammar.errors import StudyError
from search.evaluate import Evaluator, Job
from search.inherit import leave, modules, take
from search.kinship import heir, pairs, parent_of, prune, weights_file
from search.setup import setup_of
from search.strategies.evolution import Evolution
from search.tasks import find
from tests.search.small_search import SPACE, ledger, use_runs, work

FACE = find("digits").interface
PARENT = (
    "conv2d(dim=8, kernel=3) >> batch_norm >> relu >> residual(conv2d(dim=8, kernel=3) >> relu) "
    ">> residual(conv2d(dim=8, kernel=3) >> gelu) >> head"
)
CHILD = PARENT.replace("gelu", "silu")  # one late op


def matched(child: str, parent: str) -> list[tuple[int, int]]:
    return pairs(compile_text(child, FACE).graph, compile_text(parent, FACE).graph)


def job(text: str, **more: object) -> Job:
    source = compile_text(text, FACE).source
    settings = {"seed": 3, "epochs": 1, "lr": 1e-3, "weight_decay": 1e-4, **more}
    return Job(source=source, **settings)  # type: ignore[arg-type]  # test data


def row(number: int, text: str = "", status: str = "ok", origin: str = "prior") -> TrialRecord:
    record = TrialRecord(number, "ok", text, str(number), 0.5, trace={"a": 0}, origin=origin)
    return replace(record, status=status)  # type: ignore[arg-type]  # test data


def test_a_late_op_changed_takes_its_segment_alone_out() -> None:
    assert matched(CHILD, PARENT) == [(0, 0), (1, 1), (2, 2), (4, 4)]
    assert matched(PARENT, PARENT) == [(i, i) for i in range(5)]


def test_equal_parts_are_matched_by_position_and_each_once() -> None:
    a, b = "residual(conv2d(dim=1, kernel=3) >> relu)", "residual(conv2d(dim=1, kernel=5) >> relu)"
    chain = " >> ".join
    assert matched(chain([a, b, a, "head"]), chain([a, a, a, "head"])) == [(0, 0), (2, 2), (3, 3)]
    assert matched(chain([a, a, a, a, "head"]), chain([a, a, "head"])) == [(0, 0), (1, 1), (4, 2)]
    assert matched(chain([a, b, "head"]), chain([b, a, "head"])) == [(0, 1), (1, 0), (2, 2)]
    assert matched(chain([b, "head"]), chain([a, "head"])) == [(1, 1)]


def test_another_width_before_a_part_makes_it_another_part() -> None:
    wide, slim = (f"conv2d(dim={n}, kernel=3) >> batch_norm >> head" for n in (8, 16))
    assert matched(wide, slim) == []


def test_a_shared_module_is_inherited_once() -> None:
    text = "let s = conv2d(dim=1, kernel=3) >> relu; s >> batch_norm >> s >> {0} >> head"
    assert matched(text.format("gelu"), text.format("silu")) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("name", "task"), [("vision", "mnist5k"), ("lm", "shakespeare"), ("attention", "mqar")]
)
def test_the_modules_of_a_model_are_those_of_its_graph_in_order(name: str, task: str) -> None:
    space = frame(name, find(task).interface)
    for seed in range(8):
        found = compile_text(sample(space, random.Random(seed)).text, space.typing.interface)
        made = list(modules(load(found.source)()))
        nodes = [n for n in found.graph.modules() if n.op in space.typing.table]
        nodes = [n for n in nodes if space.typing.table[n.op].inline is None]
        classes = [space.typing.table[n.op].module.__name__ for n in nodes]
        assert [type(m).__name__ for m in made] == classes


def test_a_trained_parent_gives_exactly_its_unchanged_tensors(tmp_path: Path) -> None:
    rows = (row(0, PARENT), row(1, CHILD, "running", "mutation of #0 (subtree)"))
    with Evaluator("digits") as evaluator:
        result = evaluator.run(heir(job(PARENT), tmp_path, rows, rows[0], FACE))
        assert (result.status, result.metrics["inherited"]) == ("ok", 0.0)
        child = heir(job(CHILD), tmp_path, rows, rows[1], FACE)
        second = evaluator.run(child)
    trained = load_file(weights_file(tmp_path, 0))
    torch.manual_seed(3)
    fresh = load(child.source)()
    torch.manual_seed(3)
    model = load(child.source)()
    count, fault = take(model, child.estate, child.matched)
    assert fault == ""
    other = [dict(m.state_dict()) for m in modules(fresh)]
    for number, module in enumerate(modules(model)):
        for name, tensor in module.state_dict().items():
            if number == 3:
                assert torch.equal(tensor, other[number][name])
            else:
                assert torch.equal(tensor, trained[f"{number}.{name}"])
    everything = sum(p.numel() for p in model.parameters())
    assert count == everything - (8 * 8 * 9 + 8)
    assert second.metrics["inherited"] == count
    assert second.curves["train_loss"][0] < result.curves["train_loss"][0]
    assert weights_file(tmp_path, 1).is_file()


def test_missing_and_broken_weights_are_told(tmp_path: Path) -> None:
    rows = (row(0, PARENT), row(1, CHILD, "running", "crossover of #0 and #5"))
    child = heir(job(CHILD), tmp_path, rows, rows[1], FACE)
    with Evaluator("digits") as evaluator:
        result = evaluator.run(child)
    assert result.status == "ok"
    assert result.metrics["inherited"] == 0.0
    assert "nothing inherited, 0.safetensors cannot be read" in result.error
    weights_file(tmp_path, 0).write_bytes(b"no tensors")
    assert "cannot be read" in take(load(child.source)(), child.estate, child.matched)[1]


def test_weights_go_when_their_trial_is_no_parent_any_more(tmp_path: Path) -> None:
    rows = [row(n) for n in range(30)]
    rows.append(row(30, status="running", origin="mutation of #2 (hoist)"))
    model = load(compile_text("head", FACE).source)()
    for number in range(31):
        leave(model, str(weights_file(tmp_path, number)))
    prune(tmp_path, Evolution(), rows)
    left = {int(p.stem) for p in (tmp_path / "weights").iterdir()}
    assert left == {2, *range(10, 31)}


@pytest.mark.parametrize(
    ("origin", "number"),
    [
        ("mutation of #12 (parameter)", 12),
        ("crossover of #3 and #14", 3),
        ("prior", None),
        ("seed:lenet", None),
    ],
)
def test_the_origin_names_the_parent(origin: str, number: int | None) -> None:
    assert parent_of(origin) == number


def test_a_search_hands_weights_down_and_keeps_those_of_its_population(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_runs(monkeypatch, tmp_path)
    book = ledger(inherit=True)
    assert work(trials=23).reason == "done"
    rows = book.table()
    children = [t for t in rows if parent_of(t.origin) is not None]
    assert children
    assert all(t.metrics["inherited"] == 0.0 for t in rows if t not in children)
    assert any(t.metrics["inherited"] > 0 for t in children)
    assert all(t.error == "" for t in rows)
    left = {int(p.stem) for p in (book.folder / "weights").iterdir()}
    assert left == {t.number for t in Evolution().alive(rows)}


def test_with_inheritance_off_nothing_is_stored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_runs(monkeypatch, tmp_path)
    book = ledger()
    assert work(trials=2).reason == "done"
    assert not (book.folder / "weights").exists()
    assert all("inherited" not in t.metrics for t in book.table())
    with pytest.raises(StudyError, match="inherit was none, now True"):
        ledger(inherit=True)


def test_a_strategy_without_parents_cannot_inherit() -> None:
    with pytest.raises(StudyError, match="makes no children"):
        setup_of(
            SPACE,
            task="digits",
            strategy="prior",
            seed=0,
            seed_archs=(),
            epochs=1,
            study="s",
            limits=(None, None, None),
            inherit=True,
        )
