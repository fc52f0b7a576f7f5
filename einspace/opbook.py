"""The reference of the shipped ops as Markdown, a page a family: `python -m einspace.opbook`.

It is written from the ops' own docstrings, rows and costs (`einspace/oppage.py`); a test compares
the committed pages with what this gives.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ops
from einspace.oppage import costs, details, facts, parameters

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "ops"
NOTE = "Written by `python -m einspace.opbook` from the ops themselves; do not edit.\n"
FAMILIES: Mapping[str, str] = {
    "act": "Activations, element by element",
    "attention": "Softmax attention and its relatives",
    "conv": "Convolutions",
    "embed": "From ids and pixels to vectors; positions",
    "linear": "Linear attention, state spaces, token mixing",
    "memory": "Memories that learn while they read",
    "merge": "Several values into one",
    "mlp": "Channel mixing, token by token",
    "norm": "Norms",
    "pair": "Two sequences: matching and ranking",
    "pool": "From many places to few, and the head",
    "recurrent": "Recurrences",
    "shape": "Shapes, copies, tuples",
}


def pages() -> dict[str, str]:
    """File name -> text, of the index and each family."""
    by_family: dict[str, list[dict[str, Any]]] = {}
    for name, family in sorted(ops.families().items()):
        by_family.setdefault(family, []).append(details(name))
    found = {f"{family}.md": _family(family, own) for family, own in sorted(by_family.items())}
    return {"README.md": _index(by_family), **found}


def _index(by_family: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    count = sum(map(len, by_family.values()))
    lines = ["# Ops", "", f"The {count} words of the language that are shipped. {NOTE}"]
    lines += [
        "`FLOPs` and `state` tell how the reference's matmuls and the decoding state grow with the",
        "number of tokens T; `-` is none. `einspace ops show NAME` prints a page in the terminal,",
        "[own-ops.md](../own-ops.md) says how to add words of your own.",
    ]
    for family, own in sorted(by_family.items()):
        title = f"[{family}]({family}.md): {FAMILIES.get(family, family)}"
        lines += [
            "",
            f"## {title}",
            "",
            "| op | | causal | FLOPs | state |",
            "|---|---|---|---|---|",
        ]
        for f in own:
            causal = {True: "yes", False: "no"}.get(f["causal"], "depends")
            link = f"[`{f['name']}`]({family}.md#{f['name']})"
            cells = (link, _cell(f["about"]), causal, f["complexity"], f["state_growth"])
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _family(family: str, own: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"# {FAMILIES.get(family, family)}", "", NOTE]
    for f in own:
        lines += [f"## {f['name']}", "", "```text", f["page"], "```", ""]
        if f["params"]:
            lines += ["| parameter | default | allowed |", "|---|---|---|"]
            lines += [f"| {' | '.join(map(_cell, row))} |" for row in parameters(f)] + [""]
        lines += [f"- {name}: {_cell(text)}" for name, text in facts(f)]
        lines += ["", f"    {f['example']['text']}", "", f"{costs(f)}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(folder: Path = FOLDER) -> None:
    """Write the pages; a page of a family that is gone is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for stale in set(folder.glob("*.md")) - {folder / name for name in made}:
        stale.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{len(made)} pages in {folder}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
