"""The pieces of the exact walk: where it stands, what it shares, and the forest it leaves behind.

Where `Place` has full paths, a `Spot` has only what the future can ask for. An address is empty
while nothing can come back to it; otherwise its *root* says what it belongs to:

    let:d  fix:full        a declaration
    $2:f                   an argument of a rule, of the second rule around that has arguments
    %2/same  %2/tied       what the copies of the second repeat around share

The *store* maps addresses of such shared choices to the option taken, and (with a `!` before it)
paths of shared modules to their constructor arguments.
"""

from collections.abc import Collection
from typing import NamedTuple, TypeAlias

from grammar.ast import Expr

Pair: TypeAlias = tuple[str, object]
Store: TypeAlias = tuple[Pair, ...]
Names: TypeAlias = tuple[Pair, ...]
EVERY = 1 << 60  # "any number of nodes"


class Many:
    """The list of values that a name is after copies."""

    __slots__ = ("values",)

    def __init__(self, values: tuple[object, ...]) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Many) and other.values == self.values

    def __hash__(self) -> int:
        return hash(("many", self.values))


class Branches(NamedTuple):
    """The value of `outputs(...)`, before the algebra reads it as a dict."""

    names: tuple[str, ...]
    values: tuple[object, ...]


class Closure(NamedTuple):
    """An argument: the caller's text at the caller's spot, with the caller's names.

    What it binds passes through the rule under names that no text can write: `carried`.
    """

    body: Expr
    spot: "Spot"
    scope: Names

    def carried(self, name: str) -> str:
        """A name that this argument binds, on its way through the rule."""
        return name if ">" in name else f"{self.spot.address}>{name}"


class Env:
    """The arguments in force; interned, so equal ones are identical."""

    __slots__ = ("closures", "level")

    def __init__(self, closures: tuple[tuple[str, Closure], ...]) -> None:
        self.closures = dict(closures)
        self.level = max((c.spot.level() for c in self.closures.values()), default=0)


class Spot(NamedTuple):
    """Where the exact walk stands: addresses of choices and of modules, the places at which
    `same` and `tied` would anchor (empty: nowhere), and the task's output that this leads to."""

    address: str
    near: str
    module: str
    mnear: str
    env: Env
    output: str = ""

    def at(self, part: object) -> "Spot":
        """One step down; what is empty stays empty."""
        if not (self.address or self.near or self.module or self.mnear):
            return self
        address, near, module, mnear = (f"{p}/{part}" if p else "" for p in self[:4])
        return Spot(address, near, module, mnear, self.env, self.output)

    def level(self) -> int:
        """The highest number of a root that can be named from here."""
        return max(self.env.level, *(_number(path) for path in self[:4]))


def _number(path: str) -> int:
    if path[:1] not in ("$", "%"):
        return 0
    return int(root(path)[1:].split(":")[0])


def root(path: str) -> str:
    """What an address belongs to."""
    return path.lstrip("!").split("/", 1)[0].split("[", 1)[0]


def look(store: Store, path: str) -> object:
    """The entry at `path`, or None."""
    for key, value in store:
        if key == path:
            return value
    return None


def put(store: Store, path: str, value: object) -> Store:
    """The store with an entry, in the one order that equal stores have."""
    return tuple(sorted((*store, (path, value)), key=_key))


def join(first: Store, second: Store) -> Store:
    """Two stores of different roots as one."""
    if not first or not second:
        return first or second
    return tuple(sorted((*first, *second), key=_key))


def _key(pair: Pair) -> str:
    return pair[0]


def kept(store: Store, roots: Collection[str]) -> Store:
    """The entries that belong to `roots`."""
    return tuple(pair for pair in store if root(pair[0]) in roots) if store else store


class Vertex:
    """All ways to one outcome: the forest's OR-node. Edges hold

    (share, pick, params, flops, times, children)

    share: probability of the alternative taken here; pick: its index, -1 where none was asked for;
    params and flops: what is spent here; times: copies that the children stand for. `log` is the
    logarithm of the vertex's mass, once it has been asked for.
    """

    __slots__ = ("edges", "log")

    def __init__(self, edges: "list[Edge]") -> None:
        self.edges = edges
        self.log: float | None = None


Edge: TypeAlias = tuple[float, int, int, int, int, tuple[Vertex, ...]]


class Out(NamedTuple):
    """An outcome of a part: its value, the names it binds, what it shares, and what it cost."""

    value: object
    binds: Names
    store: Store
    nodes: int = 0
    params: int = 0
    flops: int = 0
    memory: int = 0


Table: TypeAlias = dict[Out, Vertex]
Draft: TypeAlias = dict[Out, "list[Edge]"]


def finish(draft: Draft) -> Table:
    """The table of a draft; a vertex that only passes on is its child."""
    return {out: _vertex(edges) for out, edges in draft.items()}


def _vertex(edges: "list[Edge]") -> Vertex:
    if len(edges) == 1:
        share, pick, params, flops, times, below = edges[0]
        if share == 1.0 and pick < 0 and not params and not flops and times == 1:
            if len(below) == 1:
                return below[0]
            if not below:
                return EMPTY
    return Vertex(edges)


EMPTY = Vertex([(1.0, -1, 0, 0, 1, ())])
