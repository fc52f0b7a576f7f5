"""The page of one op and the table of all: facts for `einspace ops`, as data and as lines.

The reference in `docs/ops/` (`einspace/opbook.py`) is written from the same data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from einspace.draw import to_text, word_of
from einspace.opfacts import about, causality, engine, example, growth, page
from einspace.optable import families, table
from grammar.domain import Required
from grammar.errors import OpError, did_you_mean
from ops.spec import Op


def row(op: Op, family: str) -> dict[str, Any]:
    """One line of the table; `complexity` is of the reference's FLOPs in the number of tokens."""
    return {
        "name": op.name,
        "family": family,
        "about": about(op),
        "causal": causality(op),
        "complexity": growth(op, "flops"),
        "params": {name: domain.describe() for name, domain in op.params.items()},
        "state": op.state,
        "state_growth": growth(op, "state") if op.state else "-",
        "paper": op.paper,
    }


def rows() -> list[dict[str, Any]]:
    """The table, by name."""
    kinds = families()
    return [row(op, kinds[name]) for name, op in table().items()]


def details(name: str) -> dict[str, Any]:
    """All that is known of an op. Raises: OpError if there is none of that name."""
    known = table()
    if name not in known:
        raise OpError(f"there is no op {name[:60]!r}", hint=did_you_mean(name, known))
    op = known[name]
    kind, text, compiled = example(op)
    params = {}
    for word, domain in op.params.items():
        must = isinstance(domain.default, Required)
        value = None if must else domain.default
        params[word] = {"allowed": domain.describe(), "default": value, "required": must}
    return row(op, families()[name]) | {
        "page": page(op),
        "params": params,
        "inputs": {i.name: _input(i.role, i.optional, i.many) for i in op.inputs},
        "exports": list(op.signature.exports),
        "mask": op.mask,
        "capture": op.capture,
        "engine": engine(op),
        "example": {
            "text": text,
            "input": kind,
            "output": str(compiled.output),
            "params": compiled.params,
            "flops": compiled.flops,
            "state_bytes": compiled.state_bytes,
        },
        "drawing": to_text(compiled.graph),
    }


def _input(role: str, optional: bool, many: bool) -> str:
    words = [role, *(["optional"] if optional else []), *(["any number of values"] if many else [])]
    return ", ".join(words)


MASKS: Mapping[str, str] = {
    "pass": "works token by token, padded or not",
    "use": "padded tokens are not seen",
    "end": "padded tokens are not seen, and gone after it",
    "none": "takes no padded input",
}


def facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Short facts, by name."""
    causal = {True: "yes", False: "no", "depends": "depends on its parameters or inputs"}
    state = {"1": "constant size", "-": "none"}.get(found["state_growth"])
    listed = [
        ("causal", causal[found["causal"]]),
        ("padding", MASKS[found["mask"]]),
        ("FLOPs", {"-": "no matmul"}.get(found["complexity"], f"~ {found['complexity']}")),
        ("state", state or f"~ {found['state_growth']}"),
        ("inputs", "; ".join(f"{n} ({words})" for n, words in found["inputs"].items())),
        ("exports", ", ".join(found["exports"])),
        ("CUDA graph", "" if found["capture"] else "cannot hold it: models with it train eagerly"),
        ("engine", found["engine"]),
        ("paper", found["paper"]),
    ]
    return [(name, text) for name, text in listed if text]


def parameters(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, default, what is allowed) of each parameter."""
    return [
        (name, "must be given" if p["required"] else word_of(p["default"]), p["allowed"])
        for name, p in found["params"].items()
    ]


def costs(found: Mapping[str, Any]) -> str:
    """What the example costs, in a line."""
    e = found["example"]
    return (
        f"{e['input']} -> {e['output']}: {e['params']:,} parameters, {e['flops']:,} FLOPs, "
        f"{e['state_bytes']:,} state bytes"
    )


def lines(found: Mapping[str, Any]) -> list[str]:
    """The page for a terminal."""
    made = [f"{found['name']} ({found['family']})", "", found["page"], ""]
    table_ = [("parameter", "default", "allowed"), *parameters(found)]
    made += [*columns(table_), ""] if len(table_) > 1 else []
    made += [*columns(facts(found)), ""]
    made += ["example", f"    {found['example']['text']}", f"    {costs(found)}", ""]
    return made + str(found["drawing"]).splitlines()


def columns(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text in aligned columns; the last one is left ragged."""
    wide = [max(len(r[i]) for r in cells) for i in range(len(cells[0]) - 1)]
    return [
        "  ".join([*(f"{c:<{w}}" for c, w in zip(r[:-1], wide, strict=True)), r[-1]]).rstrip()
        for r in cells
    ]


def listing(found: Sequence[Mapping[str, Any]], width: int | None = None) -> list[str]:
    """The table for a terminal, cut to its width where it has one."""
    causal = {True: "yes", False: "no", "depends": "depends"}
    head = ("op", "family", "causal", "FLOPs", "state", "paper", "what it is")
    cells = [
        (
            *(r["name"], r["family"], causal[r["causal"]], r["complexity"], r["state_growth"]),
            *(r["paper"].removeprefix("arXiv:"), r["about"]),
        )
        for r in found
    ]
    made = columns([head, *cells])
    return made if width is None else [c if len(c) <= width else c[: width - 1] + "…" for c in made]
