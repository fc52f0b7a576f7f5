"""What the shipped spaces of attention promise: whom they hold, what they keep equal."""

import random
import re
from collections import Counter, defaultdict
from itertools import product

import pytest

import ops
from einspace.candidates import Frame, frame, sample
from einspace.compile import compile_text
from einspace.library import shipped
from einspace.opfacts import Fit, choices, example
from grammar.domain import Required
from ops.spec import Op, seq, tokens
from search.tasks import find

X, ONE, IDS = seq(64, 64), seq(64, 1), tokens(64, 64)


def _frame(name: str) -> Frame:
    task = shipped("spaces")[name].task
    assert task is not None
    return frame(name, find(task).interface)


def _can_be_causal(op: Op) -> bool:
    """Whether it gives a sequence like the one it gets and, somehow, looks at no later token."""
    if op.example:
        nodes = example(op)[2].graph.nodes
        causal = [node.causal for node in nodes if node.op == op.name]
        if any(causal):
            return True
    fixed = {"causal": [True], "head_dim": [16], "prefix": [1]}
    words = {
        name: fixed.get(name, choices(name, domain))
        for name, domain in op.params.items()
        if name in fixed or isinstance(domain.default, Required)
    }
    inputs = [[None] if i.optional else [X, ONE, IDS] for i in op.inputs]
    for further in product(*inputs):
        for values in product(*words.values()):
            fit = Fit(op, (X,), further, dict(zip(words, values, strict=True)))
            if fit.fits() and fit.causal:
                out = op.shape(*fit.types, *fit.inputs, **fit.words)
                return (out[0] if op.signature.exports else out) == X
    return False


def test_every_attention_holds_every_mixer_that_can_be_causal_and_each_is_drawn() -> None:
    kinds = ops.families()
    wanted = {
        name
        for name, op in ops.table().items()
        if kinds[name] in ("attention", "linear", "memory") and _can_be_causal(op)
    }
    assert {"softmax_attn", "echo_attn", "gla", "titans_mac", "prefix_attn"} <= wanted
    assert not {"linformer", "fnet", "latents"} & wanted
    place, rng = _frame("every-attention"), random.Random(0)
    drawn = Counter(w for _ in range(500) for w in _words(sample(place, rng).text))
    missing = wanted - set(drawn)
    assert not missing, f"put {sorted(missing)} into every-attention.space"


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z_0-9]+", text))


@pytest.fixture(scope="module")
def wide() -> dict[str, dict[int, str]]:
    """Kind of attention -> layers -> text, of all of wide-vs-deep."""
    place, rng = _frame("wide-vs-deep"), random.Random(0)
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for text in {sample(place, rng).text for _ in range(400)}:
        kind = re.search(r"split|(\w+_attn|linformer|performer|synthesizer)\(.*?\)", text)
        assert kind is not None, text
        graph = compile_text(text, find("osuleaf").interface).graph
        layers = sum(node.op == "mlp" for node in graph.nodes)
        found["split" if "split" in text else kind[0]][layers] = text
    return found


def test_wide_vs_deep_is_ten_kinds_of_attention_at_four_depths(
    wide: dict[str, dict[int, str]],
) -> None:
    assert len(wide) == 10
    assert all(set(depths) == {1, 2, 3, 6} for depths in wide.values())


def test_a_wide_model_differs_from_a_deep_one_by_its_norms_and_mlps_alone(
    wide: dict[str, dict[int, str]],
) -> None:
    face = find("osuleaf").interface
    layer = 2 * 2 * 32 + 8 * 32 * 32 + 4 * 32 + 32
    for kind, depths in wide.items():
        params = {n: compile_text(text, face).params for n, text in depths.items()}
        for n in (2, 3, 6):
            assert params[n] - params[1] == (n - 1) * layer, kind


def test_a_hybrid_has_full_attention_and_something_cheaper() -> None:
    place, rng = _frame("hybrid-lm"), random.Random(0)
    cheap = set(re.findall(r"\b[a-z_0-9]+", place.text)) & set(ops.table())
    cheap -= {"softmax_attn", "rms_norm", "embed", "head", "swiglu", "geglu", "sglu"}
    seen: set[str] = set()
    for _ in range(200):
        words = _words(sample(place, rng).text)
        assert "softmax_attn" in words
        assert words & cheap
        seen |= words & cheap
    assert seen == cheap
