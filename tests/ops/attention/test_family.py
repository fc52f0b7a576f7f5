"""Every attention op through the language: compiled, equal to the oracle, trained, decoded."""

import pytest
import torch

from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from ops import families, table
from ops.spec import seq, tokens
from tests.einspace.oracle import built, interpret, random_input
from tests.ops.case import Case, bench, close

LM = Interface({"tokens": tokens(24, 11)}, seq(24, 11), causal=True)
PADDED = Interface({"tokens": tokens(24, 11, may_pad=True)}, seq(24, 11))
SMALL = {"block": 4, "top": 2, "window": 5, "prefix": 1, "latent": 6, "clusters": 3, "reach": 32}
FAMILY = [
    name
    for name, op in table().items()
    if families()[name] == "attention" and all(i.optional for i in op.inputs)
]
MIXERS = [n for n in FAMILY if n not in ("fixed_tokens", "latents")]


def sentence(name: str, *, causal: bool) -> str:
    """A call of the op with small parameters."""
    params = table()[name].params
    words = ["heads=4"] if "heads" in params else []
    words += [f"{k}={v}" for k, v in SMALL.items() if k in params]
    words += ["exact=64" if causal else "exact=4"] if name == "hyper_attn" else []
    words += ["causal"] if causal and "causal" in params else []
    return f"embed(dim=16) >> residual(rms_norm >> {name}({', '.join(words)})) * 3 >> head"


def causal_mixers() -> list[str]:
    return [
        n
        for n in MIXERS
        if "causal" in table()[n].params or table()[n].causal is True or n == "prefix_attn"
    ]


@pytest.mark.parametrize("name", causal_mixers())
def test_causal_models_compile_train_and_decode(name: str) -> None:
    compiled = compile_text(sentence(name, causal=True), LM)
    model, x = built(compiled), random_input(tokens(24, 11))
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(y, interpret(compiled, model, [x]))
        state, parts = model.init_state(2, 24), []
        for t in range(24):
            now, state = model.step(x[:, t : t + 1], state)
            parts.append(now)
    torch.testing.assert_close(torch.cat(parts, 1), y, rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in model.parameters()) == compiled.params
    loss, aux, stats = model.train().forward_aux(x)
    (loss.square().mean() + aux).backward()
    model.update(stats)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MIXERS)
def test_padded_models_ignore_what_stands_in_the_padding(name: str) -> None:
    compiled = compile_text(sentence(name, causal=False), PADDED)
    model, x = built(compiled), random_input(tokens(24, 11))
    x[1, 15:] = 0
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(y, interpret(compiled, model, [x]))
        model.embed.weight[0] += 1.0
        torch.testing.assert_close(model(x)[x != 0], y[x != 0])


@pytest.mark.parametrize("name", MIXERS)
def test_half_precision_forward_stays_finite(name: str) -> None:
    model = load(compile_text(sentence(name, causal=False), PADDED).source)()
    x = random_input(tokens(24, 11))
    x[1, 15:] = 0
    with torch.autocast("cpu", torch.bfloat16):
        y, aux, _ = model.forward_aux(x)
        (y.float().square().mean() + aux).backward()
    assert y.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "name",
    [
        "softmax_attn",
        "talking_heads",
        "diff_attn",
        "entmax_attn",
        "sparsemax_attn",
        "moh_attn",
        "approx_attn",
        "nonapprox_attn",
        "routing_attn",
        "key_mask_attn",
    ],
)
def test_without_order_and_positions_a_permutation_passes_through(name: str) -> None:
    params = {"heads": 4} | {k: v for k, v in SMALL.items() if k in table()[name].params}
    hide = (seq(9, 1),) if name == "key_mask_attn" else ()
    one = bench(name, Case(seq(9, 16), params, inputs=hide))
    module, data = one.build(dtype=torch.float64).eval(), one.data(dtype=torch.float64)
    order = torch.randperm(9)
    mixed = [v if v is None else v[:, order] for v in data]
    with torch.no_grad():
        whole, other = (one.values(one.call(module, d))[0] for d in (data, mixed))
    close(other, whole[:, order])


def test_the_deconstructed_variants_have_the_parameters_of_the_standard() -> None:
    names = ["softmax_attn", "approx_attn", "nonapprox_attn", "rndembqk_attn"]
    counts = {bench(n, Case(seq(9, 16), {"heads": 4})).cost.params for n in names}
    for name in ("staticembqk_attn", "fixedseqqk_attn"):
        counts.add(bench(name, Case(seq(9, 16), {"heads": 4}, inputs=(seq(9, 16),))).cost.params)
    assert counts == {4 * 16 * 16}
