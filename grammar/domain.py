"""Domains of parameters: which values a word of a call may take, and which points a range covers.

Every domain is countable: an integer range is inclusive (a `log` one walks the powers of two), a
float range is a grid of `points` values (log-spaced if the domain says so). `default=REQUIRED`
means that the parameter must be given. Paper defaults live here and nowhere else.
"""

import math
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

Scalar: TypeAlias = int | float | bool | str | tuple[int, ...] | None


class Required:
    """The type of `REQUIRED`, the default of a parameter without one."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = Required()


class Domain(Protocol):
    """What an op's parameter accepts."""

    @property
    def default(self) -> Scalar | Required: ...

    def accept(self, value: object) -> Scalar:
        """The value in the parameter's type. Raises: ValueError saying what is allowed."""

    def grid(self, low: float, high: float, step: float | None) -> tuple[Scalar, ...]:
        """The points of `low..high by step`. Raises: ValueError where no range makes sense."""

    def describe(self) -> str:
        """What is allowed, in a few words."""


def _steps(low: float, high: float, step: float) -> list[float]:
    if step <= 0:
        raise ValueError("a step must be positive")
    count = math.floor((high - low) / step + 1e-9) + 1
    if count > 10_000:
        raise ValueError("a range has at most 10,000 points")
    return [low + i * step for i in range(max(0, count))]


@dataclass(frozen=True, slots=True)
class Int:
    """Integers `low..high`; `log` ranges walk the powers of two; `none` admits `none`."""

    low: int
    high: int
    log: bool = False
    default: int | Required | None = REQUIRED
    none: bool = False

    def accept(self, value: object) -> Scalar:
        if value is None and self.none:
            return None
        whole = isinstance(value, float) and value.is_integer()
        if isinstance(value, bool) or not (isinstance(value, int) or whole):
            raise ValueError(self.describe())
        number = int(value)  # type: ignore[call-overload]  # narrowed above
        if not self.low <= number <= self.high:
            raise ValueError(self.describe())
        return int(number)

    def grid(self, low: float, high: float, step: float | None) -> tuple[Scalar, ...]:
        if low != int(low) or high != int(high):
            raise ValueError("a whole number is needed at both ends")
        if step is not None:
            return tuple(self.accept(p) for p in _steps(low, high, step))
        if self.log:
            powers = [2**e for e in range(42) if low <= 2**e <= high]
            return tuple(self.accept(p) for p in powers)
        return tuple(self.accept(int(p)) for p in _steps(low, high, 1))

    def describe(self) -> str:
        return f"a whole number from {self.low} to {self.high}" + (" or none" if self.none else "")


@dataclass(frozen=True, slots=True)
class Float:
    """Numbers `low..high`; a range is a grid of `points` values, log-spaced when `log`."""

    low: float
    high: float
    log: bool = False
    points: int = 9
    default: float | Required | None = REQUIRED
    none: bool = False

    def accept(self, value: object) -> Scalar:
        if value is None and self.none:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(self.describe())
        if not self.low <= value <= self.high:
            raise ValueError(self.describe())
        return float(value)

    def grid(self, low: float, high: float, step: float | None) -> tuple[Scalar, ...]:
        if step is not None:
            return tuple(self.accept(p) for p in _steps(low, high, step))
        if self.log and low <= 0:
            raise ValueError("a range on a logarithmic scale starts above 0")
        last = self.points - 1
        if self.log:
            raw = [low * (high / low) ** (i / last) for i in range(self.points)]
        else:
            raw = [low + (high - low) * i / last for i in range(self.points)]
        return tuple(self.accept(min(max(float(f"{p:.6g}"), low), high)) for p in raw)

    def describe(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}" + (" or none" if self.none else "")


@dataclass(frozen=True, slots=True)
class Flag:
    """`name` alone switches it on; `name=true|false` too."""

    default: bool = False

    def accept(self, value: object) -> Scalar:
        if not isinstance(value, bool):
            raise ValueError(self.describe())
        return value

    def grid(self, low: float, high: float, step: float | None) -> tuple[Scalar, ...]:
        raise ValueError("a flag has no range")

    def describe(self) -> str:
        return "true or false"


@dataclass(frozen=True, slots=True)
class Word:
    """One of a few words, such as `kind=mean|max`; `none` is a word like any other."""

    options: tuple[str, ...]
    default: str | Required = REQUIRED

    def accept(self, value: object) -> Scalar:
        text = "none" if value is None else value
        if not isinstance(text, str) or text not in self.options:
            raise ValueError(self.describe())
        return text

    def grid(self, low: float, high: float, step: float | None) -> tuple[Scalar, ...]:
        raise ValueError("words have no range")

    def describe(self) -> str:
        return " or ".join((", ".join(self.options[:-1]), self.options[-1])).removeprefix(" or ")


@dataclass(frozen=True, slots=True)
class Ints:
    """A list of integers such as `order=[2,1]`: each within `low..high`, `size` many at most."""

    low: int
    high: int
    size: int
    default: tuple[int, ...] | Required = REQUIRED

    def accept(self, value: object) -> Scalar:
        if not isinstance(value, tuple) or not 0 < len(value) <= self.size:
            raise ValueError(self.describe())
        item = Int(self.low, self.high)
        return tuple(int(item.accept(v)) for v in value)  # type: ignore[arg-type]  # Int gives int

    def grid(self, low: float, high: float, step: float | None) -> tuple[Scalar, ...]:
        raise ValueError("lists have no range")

    def describe(self) -> str:
        return f"a list of 1 to {self.size} whole numbers from {self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Signature:
    """What the language must know of an op: parameters in table order, further inputs, exports."""

    name: str
    params: dict[str, Domain] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    exports: tuple[str, ...] = ()
    variadic: bool = False
