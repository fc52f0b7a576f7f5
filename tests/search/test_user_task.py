"""Users' tasks: Python files, .npy folders, tables, entry points; found again, never written."""

import pickle
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from grammar.errors import DataError, StudyError
from search.contract import check_task
from search.evaluate import Evaluator
from search.setup import setup_of
from search.task import Task
from search.tasks import digits, find

CODE = """
from dataclasses import replace
from search.tasks.digits import TASK as DIGITS
TASK = replace(DIGITS, name="mine", about="digits again")
"""


def _code(folder: Path, text: str = CODE) -> Path:
    path = folder / "my_task.py"
    path.write_text(text)
    return path


def _folder(folder: Path, shape: tuple[int, ...] = (3, 6, 5), kind: str = "f") -> Path:
    rng = np.random.default_rng(0)
    for part, rows in (("train", 40), ("valid", 12), ("test", 14)):
        x = rng.normal(5, 3, (rows, *shape)) if kind == "f" else rng.integers(0, 9, (rows, *shape))
        np.save(folder / f"{part}_x.npy", x)
        np.save(folder / f"{part}_y.npy", np.arange(rows) % 4)
    return folder


def _setup(task: str) -> str:
    return setup_of(
        "flatten >> head",
        task=task,
        strategy="prior",
        seed=0,
        seed_archs=(),
        epochs=1,
        study="s",
        limits=(None, None, None),
    ).task


def test_a_python_file_is_a_task_and_the_worker_process_finds_it(tmp_path: Path) -> None:
    path = _code(tmp_path)
    task = find(str(path))
    assert (task.name, task.interface) == ("mine", digits.TASK.interface)
    assert _setup(str(path)) == task.ref
    assert find(task.ref).ref == task.ref
    assert task.ref.startswith(f"{path.resolve()}#")
    assert check_task(task).rows == (1257, 270, 270)
    with Evaluator(task) as evaluator:
        assert evaluator.ready().task == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["my_task.py"]  # No cache was written.


def test_a_file_that_changed_or_went_away_is_refused(tmp_path: Path) -> None:
    path = _code(tmp_path)
    ref = find(str(path)).ref
    path.write_text(CODE + "\n")
    with pytest.raises(StudyError, match="has changed since"):
        find(ref)
    path.unlink()
    with pytest.raises(StudyError, match="no file or folder"):
        find(ref)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("TASK = 3\n", "defines no TASK"),
        ("x = \n", "SyntaxError"),
        ("import no_such_module_here\n", r"ModuleNotFoundError.*\(line 1\)"),
        ("a = 1\nb = a / 0\n", r"ZeroDivisionError.*\(line 2\)"),
        (CODE.replace('"mine"', '"My task"'), "is named 'My task'"),
    ],
)
def test_a_broken_file_is_one_error(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(StudyError, match=fault) as caught:
        find(str(_code(tmp_path, text)))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("shape", "kind", "wanted"),
    [
        ((3, 6, 5), "f", "image[3,6,5]"),
        ((6, 2), "f", "seq[6,2]"),
        ((7,), "f", "vec[7]"),
        ((8,), "i", "tokens[8]"),
    ],
)
def test_a_folder_of_arrays_has_the_types_of_its_shapes(
    tmp_path: Path, shape: tuple[int, ...], kind: str, wanted: str
) -> None:
    task = find(str(_folder(tmp_path, shape, kind)))
    assert str(task.interface.inputs["x"]) == wanted
    assert str(task.interface.target) == "scores[4]"
    assert check_task(task).rows == (40, 12, 14)
    data = task.load(0)
    assert data.test.y.tolist() == [i % 4 for i in range(14)]
    raw = torch.from_numpy(np.load(tmp_path / "test_x.npy"))
    if kind == "i":
        assert torch.equal(data.test.x, raw)
    else:
        assert abs(float(data.train.x.mean())) < 1e-5
        assert (
            float(
                torch.corrcoef(
                    torch.stack([raw[:, 0].flatten().float(), data.test.x[:, 0].flatten()])
                )[0, 1]
            )
            > 0.9
        )
    assert find(task.ref).ref == task.ref
    assert len(list(tmp_path.iterdir())) == 6


def test_changed_arrays_are_refused_on_resume(tmp_path: Path) -> None:
    ref = find(str(_folder(tmp_path))).ref
    np.save(tmp_path / "test_y.npy", np.arange(14) % 3)
    with pytest.raises(StudyError, match="has changed since"):
        find(ref)


def test_a_csv_is_classes_or_a_quantity_by_its_last_column(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    classes, value = tmp_path / "classes.csv", tmp_path / "Some value.csv"
    np.savetxt(classes, np.c_[x, np.arange(60) % 3], delimiter=",")
    np.savetxt(
        value, np.c_[x, x @ [1.0, 2.0, 3.0] + 7], delimiter=",", header="a,b,c,y", comments=""
    )
    first, second = find(str(classes)), find(str(value))
    assert (first.metric, str(first.interface.target)) == ("acc", "scores[3]")
    assert (second.name, second.metric, second.direction) == ("some_value", "mse", "minimize")
    assert check_task(first).rows == check_task(second).rows == (42, 9, 9)
    assert check_task(second).best < 1e-3
    labels = second.load(0).train.y
    assert abs(float(labels.mean())) < 1e-5
    assert float(labels.std(correction=0)) == pytest.approx(1.0, abs=1e-5)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    np.save(_folder(tmp_path) / "train_x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a plain array"):
        find(str(tmp_path))
    (tmp_path / "train_x.npy").write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match="not a plain array"):
        find(str(tmp_path))


def test_faults_of_data_say_the_way_out(tmp_path: Path) -> None:
    _folder(tmp_path)
    np.save(tmp_path / "test_y.npy", np.arange(3))
    with pytest.raises(DataError, match=r"test has inputs \(14, 3, 6, 5\), answers \(3,\)"):
        find(str(tmp_path))
    (tmp_path / "test_y.npy").unlink()
    with pytest.raises(DataError, match=r"test_y\.npy cannot be read") as caught:
        find(str(tmp_path))
    assert "train_x.npy" in caught.value.hint
    words = tmp_path / "words.csv"
    words.write_text("a,b\n1,2\n3,x\n")
    with pytest.raises(DataError, match="no table of numbers"):
        find(str(words))
    with pytest.raises(StudyError, match="no file or folder"):
        find("./nowhere.csv")


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(30, 3))
    table[4, 1] = np.nan
    np.savetxt(tmp_path / "gaps.csv", table, delimiter=",")
    with pytest.raises(DataError, match="not finite"):
        find(str(tmp_path / "gaps.csv")).load(0)


PLUGIN: Task = replace(digits.TASK, name="plugin")


def test_an_installed_package_may_offer_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "offer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[einspace.tasks]\nplugin = tests.search.test_user_task:PLUGIN\n"
        "other = tests.search.test_user_task:PLUGIN\nlost = no_such_module_here:TASK\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "plugin" in metadata.entry_points(group="einspace.tasks").names
    assert (find("plugin").ref, find("plugin").about) == ("plugin", digits.TASK.about)
    with pytest.raises(StudyError, match="a task named 'plugin'"):
        find("other")
    with pytest.raises(StudyError, match="cannot be imported"):
        find("lost")
    with pytest.raises(StudyError, match="there is no task 'plugins'") as caught:
        find("plugins")
    assert "plugin" in caught.value.hint
