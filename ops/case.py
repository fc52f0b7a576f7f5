"""A case of the contract suite: one op, one input type, one choice of parameters.

The functions here build the module as the compiler does, make random data of a type and call the
module as the emitted file does. `BATCH` is 2 everywhere; choose odd lengths and heads where the op
allows it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from grammar.domain import Required
from ops.spec import Op, TensorType

BATCH = 2
LONG = 200
Values = Tensor | tuple[Any, ...]

# What "equal" means: (relative, absolute) for a chain of a few matmuls in that type.
TOLERANCE: Mapping[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (1e-5, 1e-5),
    torch.bfloat16: (2e-2, 2e-2),
}


class Breach(AssertionError):
    """An op breaks its contract; the message says how."""


def require(holds: bool, breach: str) -> None:
    """Raises: Breach unless it holds."""
    if not holds:
        raise Breach(breach)


@dataclass(frozen=True)
class Case:
    """`x` is a tuple of types for a variadic op; an optional input left out is None in `inputs`.

    `flops="analytic"`: the counter cannot see the kernel, the op's own test counts a loop of cells.
    `waive` maps a check (a key of `ops.contract.CHECKS`) to the reason why it does not apply.
    """

    x: TensorType | tuple[TensorType, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorType | None, ...] = ()
    target: TensorType | None = None
    layer: int = 0
    flops: Literal["counter", "analytic"] = "counter"
    waive: Mapping[str, str] = field(default_factory=dict)

    @property
    def types(self) -> tuple[TensorType, ...]:
        """The types of the incoming values."""
        return self.x if isinstance(self.x, tuple) else (self.x,)


def close(actual: Values, expected: Values, *, scale: float = 1.0) -> None:
    """Equal within the tolerance of the expected type, `scale` times over."""
    if isinstance(expected, tuple):
        require(len(actual) == len(expected), f"{len(actual)} values for {len(expected)}")
        for a, e in zip(actual, expected, strict=True):
            close(a, e, scale=scale)
        return
    relative, absolute = TOLERANCE.get(expected.dtype, (0.0, 0.0))
    torch.testing.assert_close(actual, expected, rtol=relative * scale, atol=absolute * scale)


def complete(op: Op, params: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters in table order: given ones checked by their domain, else the default."""
    unknown = set(params) - set(op.params)
    require(not unknown, f"{op.name} has no parameters {sorted(unknown)}")
    full = {}
    for name, domain in op.params.items():
        value = domain.accept(params[name]) if name in params else domain.default
        if isinstance(value, Required):
            raise Breach(f"{op.name} needs {name}")
        full[name] = value
    return full


@dataclass(frozen=True)
class Bench:
    """An op under test: the case with all parameters filled in."""

    op: Op
    case: Case

    def __str__(self) -> str:
        words = [str(t) for t in self.case.types]
        words += [f"{k}={v}" for k, v in self.case.params.items()]
        return f"{self.op.name}-{','.join(words)}".replace(" ", "")

    @property
    def params(self) -> dict[str, Any]:
        given: dict[str, Any] = {"target": self.case.target, "layer": self.case.layer, "seed": 0}
        both = zip(self.op.inputs, self.inputs, strict=True)
        given["given"] = tuple(i.name for i, kind in both if kind is not None)
        given["many"] = sum(len(t.items) for t in self.case.inputs if t and t.kind == "tuple")
        return complete(self.op, self.case.params) | {name: given[name] for name in self.op.needs}

    @property
    def inputs(self) -> tuple[TensorType | None, ...]:
        """A type or None for every declared further input."""
        given = self.case.inputs
        padded = given + (None,) * (len(self.op.inputs) - len(given))
        for declared, kind in zip(self.op.inputs, padded, strict=True):
            known = kind is not None or declared.optional
            require(known, f"{self.op.name} needs {declared.name}")
        return padded

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        """The types of the values, `aux` and `stats` left out."""
        out = self.op.shape(*self.case.types, *self.inputs, **self.params)
        return out if isinstance(out, tuple) else (out,)

    @property
    def causal(self) -> bool:
        return self.op.is_causal(*self.case.types, **self.params)

    @property
    def cost(self) -> Any:
        return self.op.cost(*self.case.types, *self.inputs, **self.params)

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
        torch.manual_seed(seed)
        module = self.op.module(**self.op.init(*self.case.types, **self.params))
        return module.to(dtype)

    def data(self, seed: int = 1, dtype: torch.dtype = torch.float32) -> list[Values | None]:
        """The incoming values and the further inputs, None where an optional one is left out."""
        torch.manual_seed(seed)
        kinds: list[TensorType | None] = [*self.case.types, *self.inputs]
        return [None if kind is None else sample(kind, dtype) for kind in kinds]

    def call(
        self, module: nn.Module, data: Sequence[Values | None], mask: Tensor | None = None
    ) -> dict[str, Any]:
        """One forward pass as the emitted file makes it: `Op.returns` to values."""
        count = len(self.case.types)
        names = [declared.name for declared in self.op.inputs]
        further = {n: v for n, v in zip(names, data[count:], strict=True) if v is not None}
        if mask is not None:
            further["mask"] = mask
        out = module(*data[:count], **further)
        if len(self.op.returns) == 1:
            return {self.op.returns[0]: out}
        require(isinstance(out, tuple), f"{self.op.name} must return {self.op.returns}")
        return dict(zip(self.op.returns, out, strict=True))

    def values(self, returned: Mapping[str, Any]) -> list[Values]:
        """The outputs that have a type; the parts of a `y` that is several values."""
        found = [v for name, v in returned.items() if name not in ("aux", "stats")]
        whole = self.op.shape(*self.case.types, *self.inputs, **self.params)
        return list(found[0]) if isinstance(whole, tuple) and len(found) == 1 else found

    def lengthened(self, length: int) -> "Bench":
        """The same case with another number of tokens (further inputs keep theirs)."""
        kinds = tuple(replace(t, shape=(length, *t.shape[1:]), grid=None) for t in self.case.types)
        streams = tuple(
            replace(t, shape=(length, *t.shape[1:])) if t and i.role == "stream" else t
            for i, t in zip(self.op.inputs, self.inputs, strict=True)
        )
        x = kinds if isinstance(self.case.x, tuple) else kinds[0]
        return Bench(self.op, replace(self.case, x=x, inputs=streams))


def sample(
    kind: TensorType, dtype: torch.dtype = torch.float32, lead: tuple[int, ...] = (BATCH,)
) -> Any:
    """Random data of a type: whole ids for tokens, normal numbers for the rest."""
    if kind.kind == "tuple":
        return tuple(sample(t, dtype, lead) for t in kind.items)
    if kind.kind == "items":
        return sample(kind.items[0], dtype, (*lead, *kind.shape))
    if kind.kind == "tokens":
        return torch.randint(1, kind.vocab or 2, (*lead, *kind.shape))
    return torch.randn(*lead, *kind.shape, dtype=dtype)


def matches(kind: TensorType, value: Any, lead: tuple[int, ...] = (BATCH,)) -> bool:
    """Whether a value has the shape and number kind of a type."""
    if kind.kind == "tuple":
        parts = zip(kind.items, value, strict=True)
        return isinstance(value, tuple) and all(matches(t, v, lead) for t, v in parts)
    if kind.kind == "items":
        return matches(kind.items[0], value, (*lead, *kind.shape))
    whole = not value.is_floating_point()
    return tuple(value.shape) == (*lead, *kind.shape) and whole == (kind.kind == "tokens")


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a value, nested tuples flattened."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)
