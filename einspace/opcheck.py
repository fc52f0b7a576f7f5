"""The contract of ops for what a user brings: every clause, every case, one finding each.

An op without `CASES` is checked with cases that are made up: the types at which it fits, small and
odd. `emitted_file` is checked besides: a model with the op, as an export holds it, runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from einspace import userfile
from einspace.load import load
from einspace.opfacts import example, fits_of
from einspace.opfiles import enable, given, ref_of, sums
from einspace.optable import Book, book, installed, table
from grammar.errors import OpError, SpaceError, did_you_mean
from ops.case import Bench, Case, matches, require, sample
from ops.contract import clauses, run
from ops.spec import Mismatch, Op, parse_type

SMALL = ("seq[7,12]", "seq[9,8]", "image[3,6,8]", "tokens[7]", "vec[12]", "scores[5]")
FURTHER = ("seq[7,12]", "seq[7,1]", "tokens[7]")
MOST = 3  # made-up cases of an op


@dataclass(frozen=True, slots=True)
class Finding:
    """One clause of the contract with one case; `breach` is "" where it holds."""

    op: str
    case: str
    check: str
    breach: str = ""
    waived: str = ""


def wanted(argument: str) -> Book:
    """The ops of a file, or the op of that name that a package offers. Raises: OpError."""
    if argument.endswith(".py") or "/" in argument:
        ref = ref_of(argument)
        enable([ref])
        return book(next(known for known in given() if sums([known]) == sums([ref])))
    known = table()
    for offered in installed():
        if offered.ops[0].name == argument:
            return offered
    if argument in known:
        raise OpError(
            f"'{argument}' is shipped, and checked by the test suite, which has its cases",
            hint=f"in the repository: python -m pytest tests/ops/test_contract.py -k {argument}",
        )
    raise OpError(f"there is no op {argument[:60]!r}", hint=did_you_mean(argument, known))


def made_up(op: Op) -> tuple[Case, ...]:
    """Cases of an op that brings none. Raises: OpError where it fits nowhere."""
    small, further = (tuple(map(parse_type, kinds)) for kinds in (SMALL, FURTHER))
    found = []
    for fit in fits_of(op, small, further):
        flags = [{}, {"causal": True}] if "causal" in op.params else [{}]
        found += [replace(fit.case, params={**fit.given, **more}) for more in flags]
    if not found:
        raise OpError(
            f"'{op.name}' fits none of {', '.join(SMALL)}",
            hint="give its file CASES: a list of ops.case.Case",
        )
    return tuple(found[:MOST])


def findings(found: Book) -> Iterator[Finding]:
    """Every clause with every case of a book's ops."""
    table()  # Clashes with other ops are told before anything is run.
    for op in found.ops:
        cases: Sequence[Case] = found.cases.get(op.name) or made_up(op)
        for check, bench in clauses([Bench(op, case) for case in cases]):
            yield _finding(check, bench)
        yield _emitted(op)


def _finding(check: str, bench: Bench) -> Finding:
    name, case = str(bench).split("-", 1)
    try:
        return Finding(name, case, check, waived=run(check, bench))
    except AssertionError as error:
        return Finding(name, case, check, str(error).strip() or "it does not hold")
    except OpError as error:
        return Finding(name, case, check, error.message)
    except Mismatch as error:
        return Finding(name, case, check, f"refused: {error.reason}")
    except (*userfile.FAULTS, NotImplementedError) as error:
        return Finding(name, case, check, userfile.words(error))


def _emitted(op: Op) -> Finding:
    """A model of the op's example alone runs and gives values of the type it should."""
    kind = text = ""
    try:
        kind, text, compiled = example(op)
        torch.manual_seed(0)
        model = load(compiled.source)().eval()
        with torch.no_grad():
            y = model(sample(parse_type(kind)))
        require(matches(compiled.graph.output_type, y), f"it is no {compiled.output}")
    except (OpError, SpaceError) as error:
        return Finding(op.name, kind, "emitted_file", error.message)
    except (*userfile.FAULTS, NotImplementedError) as error:
        return Finding(op.name, f"{kind}: {text}", "emitted_file", userfile.words(error))
    return Finding(op.name, f"{kind}: {text}", "emitted_file")
