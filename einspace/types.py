"""Typing: the algebra that proves a sentence while it is derived.

A value is a `Ref`, one output of a `Term`; terms link to their inputs and never change, so the
value that flows *is* the typed graph so far. No tensor exists yet.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from einspace.interface import Interface
from grammar.ast import Node
from grammar.domain import Scalar, Signature
from grammar.errors import SpaceError
from grammar.walk import Applied, Infeasible, Site, refuse
from ops.spec import Cost, Input, Mismatch, Op, TensorType


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One op applied: `types` are its outputs, `inputs` the refs it reads (x first), `roles` the
    names of the further inputs among them. The last `exports` types are those of exports; `depth`
    is the longest path of ops up to here, identities not counted."""

    op: str
    args: Mapping[str, Scalar] = field(default_factory=dict)
    constructor: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple["Ref", ...] = ()
    roles: tuple[str, ...] = ()
    types: tuple[TensorType, ...] = ()
    module: str = ""
    cost: Cost = field(default_factory=Cost)
    causal: bool = True
    exports: int = 0
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Ref:
    """Output `port` of a term."""

    term: Term
    port: int = 0

    @property
    def type(self) -> TensorType:
        return self.term.types[self.port]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a finished sentence gives: one ref, or several by name."""

    refs: tuple[Ref, ...]
    names: tuple[str, ...] = ()


def kind_of(value: object) -> str:
    """The type of a value, as it is shown to the user."""
    if isinstance(value, tuple):
        return f"tuple({','.join(map(kind_of, value))})"
    return str(value.type) if isinstance(value, Ref) else "nothing"


class Typing:
    """`Algebra` over an op table, for one task interface. Holds no state of a derivation."""

    def __init__(
        self, table: Mapping[str, Op], interface: Interface, *, depth: int | None = None
    ) -> None:
        self.table, self.interface, self.depth = table, interface, depth
        self._signatures = {name: op.signature for name, op in table.items()}
        self._inputs = {
            name: Ref(Term("input", {"name": name}, types=(kind,), module=name))
            for name, kind in interface.inputs.items()
        }

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self._signatures

    def inputs(self) -> Mapping[str, object]:
        return self._inputs

    def apply(
        self,
        op: str,
        params: Mapping[str, Scalar],
        values: Sequence[object],
        inputs: Mapping[str, object],
        site: Site,
    ) -> Applied:
        row = self.table[op]
        xs = [self._one(v, op, site) for v in values]
        many = {i.name for i in row.inputs if i.many}
        extra = {n: self._one(v, op, site) for n, v in inputs.items() if n not in many}
        self._agree(row, params, extra, site)
        extra = self._beside(row, extra, site)
        groups = {n: (ref,) for n, ref in extra.items()} | self._several(row, inputs, site)
        context = self._context(row, site, groups)
        given: dict[str, Any] = {**params, **context}
        ordered = {i.name: groups[i.name] for i in row.inputs if i.name in groups}
        types = [x.type for x in xs]
        extras = [self._given(groups[i.name], i) if i.name in groups else None for i in row.inputs]
        try:
            self._masks(row, types)
            out = row.shape(*types, *extras, **given)
            constructor = row.init(*types, **given)
            cost = row.cost(*types, *extras, **given)
            causal = row.is_causal(*types, **given)
        except Mismatch as wrong:
            place: Node = site.params.get(wrong.param or "", site.node)
            flow = "" if not types else f" (input {', '.join(map(str, types))})"
            raise Infeasible(
                SpaceError(f"{wrong.reason} of '{op}'{flow}", span=place.span, hint=wrong.hint)
            ) from None
        if self.interface.causal and not causal:
            raise refuse(
                f"'{op}' sees later tokens, and the task is causal",
                site.node,
                "add the flag causal" if "causal" in row.params else "take a causal op",
            )
        outs = out if isinstance(out, tuple) else (out,)
        refs = (*xs, *(ref for group in ordered.values() for ref in group))
        roles = tuple(name for name, group in ordered.items() for _ in group)
        exports = len(self._signatures[op].exports)
        depth = self._deeper(refs, op, site)
        term = Term(
            op, params, constructor, refs, roles, outs, site.module, cost, causal, exports, depth
        )
        made = tuple(Ref(term, i) for i in range(len(outs)))
        value = made if isinstance(out, tuple) and not exports else made[0]
        memory = 0 if op == "id" else 4 * sum(t.numel for t in outs) + cost.activation
        return Applied(value, cost.params, cost.flops, constructor, memory)

    def _deeper(self, refs: Sequence[Ref], op: str, site: Site) -> int:
        """The longest path of ops that ends here; fold and unfold count, as in `totals`."""
        depth = max((ref.term.depth for ref in refs), default=0) + (op != "id")
        if self.depth is not None and depth > self.depth:
            raise refuse(f"'{op}' lies deeper than {self.depth} ops", site.node)
        return depth

    def _several(
        self, row: Op, inputs: Mapping[str, object], site: Site
    ) -> dict[str, tuple[Ref, ...]]:
        """The inputs that take any number of values."""
        found = {}
        for declared in row.inputs:
            if declared.many and declared.name in inputs:
                value = inputs[declared.name]
                values = value if isinstance(value, tuple) else (value,)
                found[declared.name] = tuple(self._one(v, row.name, site) for v in values)
        return found

    @staticmethod
    def _given(group: tuple[Ref, ...], declared: Input) -> TensorType:
        kinds = tuple(ref.type for ref in group)
        return TensorType("tuple", (), kinds) if declared.many else kinds[0]

    def _one(self, value: object, op: str, site: Site) -> Ref:
        if isinstance(value, Ref):
            return value
        if isinstance(value, tuple):
            raise refuse(
                f"'{op}' needs one value, got {kind_of(value)}",
                site.node,
                "map it with each(...), or reduce it with add, mul, cat or dot",
            )
        names = ", ".join(f"@{n}" for n in self.interface.inputs)
        raise refuse(f"nothing flows into '{op}'", site.node, f"start with one of {names}")

    def _beside(self, row: Op, extra: dict[str, Ref], site: Site) -> dict[str, Ref]:
        """The inputs in table order, those left out taken from beside a given one."""
        found = {}
        for declared in row.inputs:
            if declared.name in extra:
                found[declared.name] = extra[declared.name]
            elif declared.beside is not None and declared.beside[0] in extra:
                near, name = declared.beside
                source = Ref(extra[near].term)
                found[declared.name] = self._one(self.export(source, name, site), row.name, site)
        return found

    @staticmethod
    def _agree(row: Op, params: Mapping[str, Scalar], extra: Mapping[str, Ref], site: Site) -> None:
        for declared in row.inputs:
            if not declared.agree or declared.name not in extra:
                continue
            giver = extra[declared.name]
            if not giver.term.exports or giver.port == 0:
                raise refuse(f"'{row.name}' needs an export as {declared.name}", site.node)
            for name in declared.agree:
                here, there = params[name], giver.term.args.get(name)
                if here != there:
                    raise refuse(
                        f"{name}={here} of '{row.name}', but {name}={there} of '{giver.term.op}'",
                        site.node,
                        f"say {name}={there}",
                    )

    def _context(
        self, row: Op, site: Site, groups: Mapping[str, tuple[Ref, ...]]
    ) -> dict[str, Any]:
        known = {
            "many": sum(len(groups.get(i.name, ())) for i in row.inputs if i.many),
            "given": tuple(i.name for i in row.inputs if i.name in groups),
            "target": self.interface.outputs.get(site.output, self.interface.target),
            "layer": site.layer,
            "seed": zlib.crc32(site.module.encode()),
        }
        return {name: known[name] for name in row.needs}

    @staticmethod
    def _masks(row: Op, types: Sequence[TensorType]) -> None:
        if row.mask == "none" and any(t.may_pad for t in types):
            raise Mismatch("padded input has no meaning", hint="this op knows no mask")

    def export(self, value: object, name: str, site: Site) -> object:
        if isinstance(value, Ref) and value.term.op in self.table:
            row = self.table[value.term.op]
            known = self._signatures[row.name].exports
            if name in known:
                if why := row.hides(**value.term.args) if row.hides else "":
                    raise refuse(f"'{row.name}' exports nothing here: {why}", site.node)
                return Ref(value.term, 1 + known.index(name))
            raise refuse(
                f"'{row.name}' exports no '{name}'",
                site.node,
                f"it exports: {', '.join(known)}" if known else "it exports nothing",
            )
        raise refuse(f"this value has no export '{name}'", site.node)

    def fold(self, value: object, site: Site) -> object:
        if not isinstance(value, Ref) or value.type.kind != "items":
            raise refuse(f"'items' needs items[N;type], got {kind_of(value)}", site.node)
        inner = value.type.items[0]
        depth = self._deeper((value,), "fold", site)
        return Ref(
            Term("fold", {}, {}, (value,), (), (inner,), site.module, Cost(), True, depth=depth)
        )

    def unfold(self, value: object, outer: object, site: Site) -> object:
        inner = self._one(value, "items", site)
        assert isinstance(outer, Ref)
        count = outer.type.shape[0]
        kind = TensorType("items", (count,), (inner.type,))
        if inner.type.kind == "vec":
            kind = TensorType("seq", (count, inner.type.dim))
        made = {"count": count}
        depth = self._deeper((inner,), "unfold", site)
        return Ref(
            Term(
                "unfold",
                made,
                made,
                (inner,),
                (),
                (kind,),
                site.module,
                Cost(),
                causal=False,
                depth=depth,
            )
        )

    def finish(self, value: object, site: Site) -> object:
        if isinstance(value, dict):
            refs = {n: self._one(v, "outputs", site) for n, v in value.items()}
            wanted = self.interface.outputs
            if wanted and set(wanted) != set(refs):
                raise refuse(f"the task's outputs are {', '.join(wanted)}", site.node)
            for name, kind in wanted.items():
                if (refs[name].type.kind, refs[name].type.shape) != (kind.kind, kind.shape):
                    told = f"the task wants {kind} as {name}, this gives {refs[name].type}"
                    raise refuse(told, site.node)
            return Outputs(tuple(refs.values()), tuple(refs))
        refs_out = value if isinstance(value, tuple) else (value,)
        target = self.interface.target
        if target is None:
            return Outputs(tuple(self._one(v, "the end", site) for v in refs_out))
        ref = self._one(value, "the end", site)
        if (ref.type.kind, ref.type.shape) != (target.kind, target.shape):
            hint = "end with head" if ref.term.op != "head" else ""
            raise refuse(f"the task wants {target}, this gives {ref.type}", site.node, hint)
        return Outputs((ref,))
