"""The op contract: tensor types, costs, mismatches and `Op`, the row that every op file defines.

Types (shapes without the batch axis):

    tokens[T]      integer ids, B T            seq[T,D]     B T D
    image[C,H,W]   B C H W                     vec[D]       B D
    scores[N]      B N                         tuple(...)   separate tensors
    items[N;type]  one tensor, B N ...

Units: FLOPs count 2 per multiply-add and only matmul and convolution terms; bytes are fp32.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import nn

from grammar.domain import Domain, Scalar, Signature

Kind = Literal["tokens", "seq", "image", "vec", "scores", "tuple", "items"]
RANK: Mapping[str, int] = {"tokens": 1, "seq": 2, "image": 3, "vec": 1, "scores": 1}


class Mismatch(Exception):
    """An op does not fit its input; `param` names the argument at fault, where one is."""

    def __init__(self, reason: str, *, param: str | None = None, hint: str = "") -> None:
        super().__init__(reason)
        self.reason, self.param, self.hint = reason, param, hint


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of one value; equality includes mask, grid and vocabulary."""

    kind: Kind
    shape: tuple[int, ...] = ()
    items: tuple["TensorType", ...] = ()
    may_pad: bool = False
    grid: tuple[int, int] | None = None
    vocab: int | None = None

    def __str__(self) -> str:
        if self.kind == "tuple":
            return f"tuple({','.join(map(str, self.items))})"
        sizes = ",".join(map(str, self.shape))
        return (
            f"items[{sizes};{self.items[0]}]" if self.kind == "items" else f"{self.kind}[{sizes}]"
        )

    @property
    def length(self) -> int:
        """T of tokens and seq."""
        if self.kind not in ("tokens", "seq"):
            raise Mismatch(f"{self} has no token axis")
        return self.shape[0]

    @property
    def dim(self) -> int:
        """The width: D of seq and vec, C of image, N of scores."""
        if self.kind not in ("seq", "vec", "image", "scores"):
            raise Mismatch(f"{self} has no width")
        return self.shape[0] if self.kind == "image" else self.shape[-1]

    @property
    def numel(self) -> int:
        """Elements of one sample."""
        if self.kind == "tuple":
            return sum(t.numel for t in self.items)
        inner = self.items[0].numel if self.kind == "items" else 1
        return math.prod(self.shape) * inner

    def with_dim(self, dim: int) -> "TensorType":
        """The same type with another width."""
        shape = (dim, *self.shape[1:]) if self.kind == "image" else (*self.shape[:-1], dim)
        return replace(self, shape=shape)


def tokens(length: int, vocab: int, *, may_pad: bool = False) -> TensorType:
    return TensorType("tokens", (length,), vocab=vocab, may_pad=may_pad)


def seq(
    length: int, dim: int, *, may_pad: bool = False, grid: tuple[int, int] | None = None
) -> TensorType:
    return TensorType("seq", (length, dim), may_pad=may_pad, grid=grid)


def image(channels: int, height: int, width: int) -> TensorType:
    return TensorType("image", (channels, height, width))


def vec(dim: int) -> TensorType:
    return TensorType("vec", (dim,))


def scores(count: int) -> TensorType:
    return TensorType("scores", (count,))


def parse_type(text: str) -> TensorType:
    """`seq[256,64]`, `tokens[128]`, `image[3,32,32]`, `vec[8]`, `scores[10]`, `items[4;seq[8,16]]`.

    Raises: ValueError with what is allowed.
    """
    plain = text.replace(" ", "")
    if len(plain) <= 200 and (nested := re.fullmatch(r"items\[(\d{1,6});(.+)\]", plain)):
        return TensorType("items", (int(nested[1]),), (parse_type(nested[2]),))
    found = re.fullmatch(r"([a-z]{3,6})\[(\d{1,6}(?:,\d{1,6}){0,2})\]", plain)
    if found and found[1] in RANK:
        sizes = tuple(int(s) for s in found[2].split(","))
        if len(sizes) == RANK[found[1]] and min(sizes) > 0:
            vocab = 256 if found[1] == "tokens" else None
            return TensorType(found[1], sizes, vocab=vocab)  # type: ignore[arg-type]  # key of RANK
    raise ValueError(
        f"{text[:60]!r} is not a type; write tokens[T], seq[T,D], image[C,H,W], vec[D], scores[N] "
        "or items[N;type] with whole numbers"
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """What one op costs for one sample.

    `activation`: bytes kept for the backward pass beyond the op's output (which is counted for
    every op); `state`: bytes of decoding state of one sequence, fp32.
    """

    params: int = 0
    flops: int = 0
    activation: int = 0
    state: int = 0


@dataclass(frozen=True, slots=True)
class Input:
    """A declared further input. `stream`: aligned with x, `step` gets its slice; `static`: given
    whole to `init_state`. `masked`: where it may be padded, `forward` also gets `<name>_mask`,
    bool [B, S]. `beside=(input, export)`: left out, it is that export of the op that gave `input`.
    `agree`: it must be an export, of an op that has equal values of these parameters.
    `many`: any number of values (`layers=@h[]`); `forward` gets a tuple, `shape` a tuple type.
    """

    name: str
    role: Literal["stream", "static"] = "static"
    optional: bool = False
    masked: bool = False
    beside: tuple[str, str] | None = None
    agree: tuple[str, ...] = ()
    many: bool = False


def _default_init(x: TensorType, **params: Any) -> dict[str, Any]:
    return {"dim": x.dim, **params}


def no_cost(*_: TensorType, **__: Any) -> Cost:
    """The cost of an op without parameters, matmuls or state."""
    return Cost()


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One word of the language: what it means, what it accepts, what it costs.

    `shape(x, *inputs, **params)` gives the output type (a tuple of types for several values) or
    raises `Mismatch`; `init(x, **params)` the constructor's arguments (default: `dim` + params);
    `cost(x, *inputs, **params)` a `Cost`. An optional input that is not given is passed as None to
    `shape`, `cost` and `causal` and left out of `forward`'s call. A `variadic` op takes any number
    of equal-rank values instead of one `x`; its `mask` is a tuple, a mask or None for each of
    them. `needs` adds context keywords to shape, init, cost and causal: `target` (the type the
    task wants), `layer` (index of this module, from 0), `seed`, `many` (how many values the
    `many` inputs got) and `given` (the names of the inputs that got a value).
    A name in `returns` other than y, aux and stats is an export: `shape` then gives several types,
    y's first; `forward` returns all of them, `alone` (same arguments) y only, for models in which
    nobody reads an export; `step` gives y, `step_all` all. `hides(**params)` says why these
    parameters export nothing ("": they do).
    `example`, "TYPE: SENTENCE", is one where a plain call is none; it stands in the reference.
    `capture=False`: its shapes depend on the data or it reads tensors back, so a CUDA graph cannot
    hold it; the module's docstring says why, and a model with it trains eagerly.
    `inline` writes the op as an expression of its inputs instead of a module call (the module then
    serves the interpreter oracle only).
    """

    name: str
    module: type[nn.Module]
    shape: Callable[..., Any]
    cost: Callable[..., Cost]
    causal: bool | Callable[..., bool]
    params: Mapping[str, Domain] = field(default_factory=dict)
    init: Callable[..., dict[str, Any]] = _default_init
    inputs: tuple[Input, ...] = ()
    variadic: bool = False
    returns: tuple[str, ...] = ("y",)
    mask: Literal["pass", "use", "end", "none"] = "pass"
    state: bool = False
    needs: tuple[Literal["target", "layer", "seed", "many", "given"], ...] = ()
    needs_positions: bool = False
    fixed_length: bool = False
    capture: bool = True
    uses: tuple[Callable[..., Any], ...] = ()
    hides: Callable[..., str] | None = None
    inline: Callable[[Sequence[str], Mapping[str, Scalar]], str] | None = None
    paper: str = ""
    example: str = ""

    def is_causal(self, *types: TensorType | None, **params: Any) -> bool:
        """Whether output t depends on inputs 0..t only, given `x, *inputs` and these parameters."""
        return self.causal if isinstance(self.causal, bool) else self.causal(*types, **params)

    @property
    def signature(self) -> Signature:
        """What the language must know of this op."""
        return Signature(
            self.name,
            dict(self.params),
            tuple(i.name for i in self.inputs),
            frozenset(i.name for i in self.inputs if i.optional),
            tuple(r for r in self.returns if r not in ("y", "aux", "stats")),
            self.variadic,
        )


def need(x: TensorType, *kinds: Kind) -> None:
    """Raises: Mismatch unless `x` is of one of `kinds`."""
    if x.kind not in kinds:
        raise Mismatch(f"needs {' or '.join(kinds)}, got {x}")


def need_divides(heads: int, dim: int, *, param: str = "heads") -> None:
    """Raises: Mismatch with the divisors of `dim`, unless `heads` divides it."""
    if dim % heads:
        fits = [str(n) for n in range(1, min(dim, 64) + 1) if dim % n == 0]
        raise Mismatch(
            f"{param}={heads} does not divide dim={dim}",
            param=param,
            hint=f"{param} may be {', '.join(fits)} here",
        )
