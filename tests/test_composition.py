"""Any two sequence ops compose: random stacks of the whole table train a step, export and verify.

A stack takes tokens, sometimes padded, sometimes for a causal task; its ops come from one shuffled
round of the table after another, so that none is left out; parameters are drawn from domains.
"""

import random
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ops
from einspace.compile import Compiled, compile_text
from einspace.draw import word_of
from einspace.interface import Interface
from einspace.load import load
from einspace.opfacts import Fit, choices
from grammar.domain import Required, Scalar
from grammar.errors import SpaceError
from ops.spec import Op, scores, seq, tokens
from registry.export import export

LENGTH, WIDTH, VOCAB = 13, 24, 11
X, ONE, IDS = seq(LENGTH, WIDTH), seq(LENGTH, 1), tokens(LENGTH, VOCAB)
NAMES = {X: "words", ONE: "gate", IDS: "x"}
# Attention that reads an earlier layer comes with that layer.
LED = (
    "softmax_attn(heads={heads}, causal={bare}) as lead "
    ">> echo_attn(heads={heads}, causal={bare}, qk=@lead.q)"
)
TRIES = 60


def _kept(fit: Fit) -> bool:
    """Whether a sequence of the same size comes out: y, where there are exports beside it."""
    if fit.op.variadic or not fit.fits():
        return False
    out = fit.op.shape(*fit.types, *fit.inputs, **fit.words)
    return (out[0] if fit.op.signature.exports else out) == X


def drawn(op: Op, rng: random.Random, fixed: Mapping[str, Scalar]) -> Fit | None:
    """The op with random parameters and inputs that fit, None where none do."""
    for attempt in range(TRIES):
        given: dict[str, Scalar] = {}
        for name, domain in op.params.items():
            must = isinstance(domain.default, Required)
            if must or rng.random() < 0.3 + attempt / TRIES / 2:
                given[name] = rng.choice(choices(name, domain))
        given |= {name: value for name, value in fixed.items() if name in op.params}
        inputs = tuple(None if i.optional else rng.choice((X, ONE, IDS)) for i in op.inputs)
        fit = Fit(op, (X,), inputs, given)
        if _kept(fit):
            return fit
    return None


@cache
def sequence_ops() -> tuple[str, ...]:
    """The ops that give a sequence like the one they get."""
    rng = random.Random(0)
    found = (name for name, op in ops.table().items() if drawn(op, rng, {"dim": WIDTH}))
    return tuple(sorted({"echo_attn", *found}))


def call(name: str, rng: random.Random, *, causal: bool) -> str | None:
    """One op as a sentence, with random parameters; None where none were found that fit."""
    if name == "echo_attn":
        bare = word_of(causal)
        return LED.format(heads=rng.choice((1, 2, 4)), bare=bare)
    fit = drawn(ops.table()[name], rng, {"dim": WIDTH, "causal": causal})
    if fit is None:
        return None
    words = [f"{key}={word_of(value)}" for key, value in fit.given.items()]
    for declared, kind in zip(fit.op.inputs, fit.inputs, strict=True):
        if kind is not None:
            words.append(f"{declared.name}=@{NAMES[kind]}")
    return name + (f"({', '.join(words)})" if words else "")


def _stack(names: list[str], rng: random.Random) -> Compiled | None:
    """The names in sequence, where these parameters fit together."""
    causal = rng.random() < 0.5
    kind = tokens(LENGTH, VOCAB, may_pad=rng.random() < 0.3)
    target = seq(LENGTH, VOCAB) if causal else rng.choice((scores(5), seq(LENGTH, VOCAB)))
    parts = [call(name, rng, causal=causal) for name in names]
    if None in parts:
        return None
    frames = ("residual(rms_norm >> {})", "{}", "residual({})")
    wrapped = [rng.choice(frames).format(part) for part in parts]
    text = f"embed(dim={WIDTH}) as words >> linear(dim=1) as gate >> @words >> "
    text += " >> ".join([*wrapped, "rms_norm", "head"])
    try:
        return compile_text(text, Interface({"x": kind}, target, causal=causal))
    except SpaceError:
        return None


def stacks(seed: int) -> Iterator[Compiled]:
    """Random stacks without end; each op of the table is in one of every few."""
    rng, left = random.Random(seed), list[str]()
    while True:
        count = rng.randint(2, 5)
        if len(left) < count:
            left += rng.sample(sequence_ops(), len(sequence_ops()))
        names, left = left[:count], left[count:]
        tried = (_stack(names, rng) for _ in range(TRIES))
        found = next((c for c in tried if c is not None), None)
        if found is not None:
            yield found
        else:  # such as two ops of which one is never causal and the other takes no padding
            left += names


def _data(compiled: Compiled) -> Tensor:
    kind = compiled.interface.inputs["x"]
    torch.manual_seed(1)
    x = torch.randint(1, VOCAB, (3, LENGTH))
    if kind.may_pad:
        x[1, LENGTH // 2 :] = 0
    return x


def _step(compiled: Compiled) -> nn.Module:
    """One training step: the loss and every gradient are finite, and so is what comes after."""
    torch.manual_seed(0)
    model = load(compiled.source)()
    x = _data(compiled)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    y, aux, stats = model.forward_aux(x)  # type: ignore[operator]  # a method of every emitted model
    loss = y.square().mean() + aux
    loss.backward()
    assert loss.isfinite(), compiled.text
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert grads, compiled.text
    for name, grad in grads.items():
        assert grad.isfinite().all(), f"{name} of {compiled.text}"
    optimiser.step()
    model.update(stats)  # type: ignore[operator]  # as above
    assert model(x).isfinite().all(), compiled.text
    return model


def _check(found: list[Compiled], folder: Path) -> None:
    for number, compiled in enumerate(found):
        model = _step(compiled)
        if number % 10 == 0:
            out = folder / str(number)
            facts = {"weights": "after one step"}
            export(compiled, model.state_dict(), out, facts=facts)


def test_stacks_train_a_step_and_export(tmp_path: Path) -> None:
    _check(list(islice(stacks(0), 25)), tmp_path)


@pytest.mark.slow
def test_five_hundred_stacks_train_a_step_and_fifty_export(tmp_path: Path) -> None:
    found = list(islice(stacks(1), 500))
    _check(found, tmp_path)
    used = {word for c in found for word in re.findall(r"[a-z_0-9]+", c.text)}
    assert set(sequence_ops()) - {"id"} <= used
