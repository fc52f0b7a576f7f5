"""Data of a user as arrays: a folder of .npy files, or one table as .csv or .npy.

A folder holds `train_x.npy train_y.npy valid_x.npy valid_y.npy test_x.npy test_y.npy` (the layout
of Unseen NAS; `val_` will do), or `x.npy y.npy`, which are split 70/15/15. A table has a row a
case, its last column is the answer; a csv may have a line of names first.

Types follow the arrays: x [N, C, H, W] is an image, [N, T, D] floats a sequence, [N, T] integers
tokens, [N, D] floats a vector. y [N] integers are classes, floats a quantity, [N, k] floats k.
Floats are standardised a channel (a feature) with the training part, quantities likewise, so a
`mse` of 1 is what the mean gives. Nothing is unpickled; files are only read.
"""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from einspace.interface import Interface
from grammar.errors import DataError
from ops.spec import TensorType, image, scores, seq, tokens, vec
from search.data import splits
from search.scores import accuracy, cross_entropy
from search.task import Budget, Data, Split, Task

Array = npt.NDArray[np.generic]
PARTS = ("train", "valid", "test")
LAYOUT = "a folder holds train_x.npy, train_y.npy, valid_..., test_..., or x.npy and y.npy"
SHARES = (0.70, 0.15)  # of training and validation where one table holds all


@dataclass(frozen=True, slots=True)
class _Raw:
    """The arrays of each part as read, the sum of all files, and where they are."""

    parts: Mapping[str, tuple[Array, Array]]
    sha256: str
    path: Path


def task(path: Path) -> tuple[Task, str]:
    """The task of a folder or table, and the sha256 of its content; reads the data once for it.

    Raises: DataError if the files are missing, pickled, or do not fit one another.
    """
    raw = _read(path)
    (x, y), classes = raw.parts["train"], _classes(raw)
    name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    count = classes or (y.shape[1] if y.ndim == 2 else 1)
    batch = 64 if len(x) >= 1000 else 16

    def load(seed: int) -> Data:
        again = _read(path)
        if again.sha256 != raw.sha256:
            raise DataError(f"{path} changed while it was read", hint="start again")
        return _data(again, classes)

    found = Task(
        name=name if name[:1].isalpha() else f"data_{name}".rstrip("_"),
        about=f"data of {path.name}: {len(x)} training rows",
        interface=Interface({"x": _type(raw)}, target=scores(count)),
        metric="acc" if classes else "mse",
        direction="maximize" if classes else "minimize",
        budget=Budget(epochs=12, min_epochs=3, batch=batch),
        load=load,
        loss=cross_entropy if classes else F.mse_loss,
        score=accuracy if classes else squared_error,
    )
    return found, raw.sha256


def squared_error(y: Tensor, target: Tensor) -> tuple[float, int]:
    """(summed squared error, numbers)."""
    return float(((y.float() - target) ** 2).sum()), target.numel()


def _read(path: Path) -> _Raw:
    digest = hashlib.sha256()
    if not path.is_dir():
        if path.suffix not in (".csv", ".npy"):
            raise DataError(f"{path} is no task", hint="give a .py, .csv or .npy file or a folder")
        content = _bytes(path, digest)
        table = _npy(content, path) if path.suffix == ".npy" else _csv(content, path)
        if table.ndim != 2 or table.shape[1] < 2:
            raise DataError(f"{path} has shape {table.shape}", hint="rows of features and answer")
        answer = table[:, -1]
        whole = bool(np.all(answer.astype(np.float64) % 1 == 0))
        y = answer.astype(np.int64) if whole else answer
        return _Raw(_split(table[:, :-1].astype(np.float32), y), digest.hexdigest(), path)
    if (path / "x.npy").is_file():
        x, y = (_npy(_bytes(path / f"{n}.npy", digest), path / f"{n}.npy") for n in "xy")
        return _Raw(_split(x, y), digest.hexdigest(), path)
    parts = {}
    for part in PARTS:
        prefix = "val" if part == "valid" and (path / "val_x.npy").is_file() else part
        files = [path / f"{prefix}_{n}.npy" for n in "xy"]
        x, y = (_npy(_bytes(file, digest), file) for file in files)
        parts[part] = (x, y)
    return _Raw(parts, digest.hexdigest(), path)


def _bytes(path: Path, digest: "hashlib._Hash") -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint=LAYOUT) from error
    digest.update(content)
    return content


def _npy(content: bytes, path: Path) -> Array:
    try:
        found: Array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"{path} is not a plain array: {error}", hint="write it with numpy.save, no objects"
        ) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf" or not len(found):
        raise DataError(f"{path} holds no numbers", hint="integers or floats, at least one row")
    return found


def _csv(content: bytes, path: Path) -> Array:
    """The numbers of a csv; its first line is left out if it is no row of numbers."""
    first = content.split(b"\n", 1)[0].decode(errors="replace").strip()
    named = not all(_is_number(field) for field in first.split(","))
    try:
        return np.loadtxt(io.BytesIO(content), delimiter=",", skiprows=int(named), ndmin=2)
    except ValueError as error:
        raise DataError(
            f"{path} is no table of numbers: {error}", hint="commas, numbers"
        ) from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split(x: Array, y: Array) -> Mapping[str, tuple[Array, Array]]:
    if len(x) != len(y) or len(x) < 10:
        raise DataError(f"{len(x)} inputs, {len(y)} answers", hint="as many of both, 10 or more")
    sizes = [int(share * len(x)) for share in SHARES]
    rows = splits.shuffled(len(x), [*sizes, len(x) - sum(sizes)], seed=0)
    return {part: (x[i.numpy()], y[i.numpy()]) for part, i in zip(PARTS, rows, strict=True)}


def _classes(raw: _Raw) -> int:
    """How many classes there are; 0 if the answers are quantities."""
    answers = [y for _, y in raw.parts.values()]
    for part, (x, y) in raw.parts.items():
        if len(x) != len(y) or x.shape[1:] != raw.parts["train"][0].shape[1:] or not x[:1].size:
            raise DataError(
                f"{raw.path}: {part} has inputs {x.shape}, answers {y.shape}", hint=LAYOUT
            )
    kinds = {y.dtype.kind in "biu" for y in answers}
    if len(kinds) > 1 or len({y.shape[1:] for y in answers}) > 1 or answers[0].ndim > 2:
        raise DataError(f"{raw.path}: the answers of the parts differ in kind", hint=LAYOUT)
    if not kinds.pop():
        return 0
    lowest, highest = min(int(y.min()) for y in answers), max(int(y.max()) for y in answers)
    if answers[0].ndim > 1 or lowest < 0 or highest < 1 or highest >= 100_000:
        raise DataError(
            f"{raw.path}: answers {answers[0].shape}, {lowest} to {highest}, are no classes",
            hint="classes are whole numbers from 0, one a row; a quantity is a float",
        )
    return highest + 1


def _type(raw: _Raw) -> TensorType:
    x = raw.parts["train"][0]
    if x.ndim == 4:
        return image(*x.shape[1:])
    if x.ndim == 3:
        return seq(*x.shape[1:])
    if x.ndim == 2 and x.dtype.kind in "biu":
        ids = [x for x, _ in raw.parts.values()]
        if min(int(x.min()) for x in ids) < 0:
            raise DataError(f"{raw.path}: a token is negative", hint="tokens are ids from 0")
        return tokens(x.shape[1], max(int(x.max()) for x in ids) + 1)
    if x.ndim == 2:
        return vec(x.shape[1])
    raise DataError(
        f"{raw.path}: inputs have shape {x.shape}", hint="[N,C,H,W], [N,T,D], [N,T] or [N,D]"
    )


def _data(raw: _Raw, classes: int) -> Data:
    kind = _type(raw).kind
    xs = [
        torch.from_numpy(x.astype(np.int64 if kind == "tokens" else np.float32))
        for x, _ in raw.parts.values()
    ]
    ys = [
        torch.from_numpy(y.astype(np.int64 if classes else np.float32))
        for _, y in raw.parts.values()
    ]
    if kind != "tokens":
        xs = _standardised(xs, channel={"image": 1, "seq": 2, "vec": 1}[kind], raw=raw)
    if not classes:
        ys = _standardised([y.view(len(y), -1) for y in ys], channel=1, raw=raw)
    train, val, test = (Split(x, y) for x, y in zip(xs, ys, strict=True))
    return Data(train, val, test, f"{raw.path.name} sha256:{raw.sha256}", raw.sha256)


def _standardised(parts: list[Tensor], *, channel: int, raw: _Raw) -> list[Tensor]:
    """Each channel less the mean, over the deviation, of the first part; a constant one is 0."""
    axes = [axis for axis in range(parts[0].dim()) if axis != channel]
    deviation, mean = torch.std_mean(parts[0].double(), dim=axes, correction=0, keepdim=True)
    scale = torch.where(deviation > 0, deviation, 1.0)
    out = [((part - mean) / scale).float() for part in parts]
    if not all(bool(part.isfinite().all()) for part in out):
        raise DataError(f"{raw.path} holds numbers that are not finite", hint="fill them in first")
    return out
