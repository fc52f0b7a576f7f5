"""The thirty architectures: causal pre-norm language models of three sizes, seeds and samples.

The samples were drawn once, from seeds 1, 2 and 3, of the space that stands in `SPACE`; here they
are fixed, so that a run needs nothing that draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass

VOCAB = 256
SPACE = """
net   = embed(dim=d) >> layer * n >> rms_norm >> head;
layer = pre(f=mix) >> pre(f=ffn);
mix   = 0.3: softmax_attn(heads=2|4|8, causal, pos=rope|alibi|none)
      | 0.1: softmax_attn(heads=4, kv_heads=1|2, causal, pos=rope)
      | 0.12: window_attn(heads=4, window=16..128) | 0.12: lightning(heads=2|4)
      | 0.06: linear_attn(heads=4, causal) | 0.08: conv_mixer(kernel=3|4) | 0.06: retnet(heads=4)
      | 0.08: gla(heads=4) | min_gru | 0.06: simple_gla(heads=4);
ffn   = swiglu(mult=2..4 by 1) | geglu(mult=2) | mlp(mult=2|4);
pre(f) = residual(rms_norm >> f);
"""


@dataclass(frozen=True, slots=True)
class Size:
    """Width, layers, rows of a batch, tokens of a row."""

    dim: int
    layers: int
    batch: int
    length: int


SIZES: Mapping[str, Size] = {
    "small": Size(128, 2, 64, 256),
    "middle": Size(256, 4, 64, 256),
    "large": Size(256, 8, 16, 1024),
}


def _layers(size: Size, *parts: str) -> str:
    """A language model whose layers are `parts`, each behind a norm and around it the identity."""
    layer = " >> ".join(f"residual(rms_norm >> {part})" for part in parts)
    return f"embed(dim={size.dim}) >> ({layer}) * {size.layers} >> rms_norm >> head"


SEEDS: Mapping[str, tuple[str, ...]] = {
    "rope": ("softmax_attn(heads=4, causal, pos=rope)", "swiglu"),
    "gpt": ("softmax_attn(heads=4, causal, pos=rope)", "mlp(mult=4)"),
    "llama": ("softmax_attn(heads=8, kv_heads=2, causal, pos=rope)", "swiglu"),
    "t5": ("softmax_attn(heads=4, causal, pos=t5, scale=1)", "geglu"),
    "lightning": ("lightning(heads=4)", "swiglu(mult=2)"),
    "retnet": ("retnet(heads=4)", "mlp(mult=2)"),
    "gla": ("gla(heads=4)", "swiglu"),
    "delta": ("delta_net(heads=4)", "swiglu"),
    "mamba2": ("mamba2(state=64, head_dim=32)", "mamba2(state=64, head_dim=32)"),
}
CHOSEN: Mapping[str, tuple[str, ...]] = {
    "small": tuple(SEEDS),
    "middle": ("rope", "llama", "lightning", "retnet", "mamba2"),
    "large": ("rope", "lightning"),
}
SAMPLES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "small": (
        (
            "softmax_attn(heads=4, causal, pos=alibi)",
            "geglu(mult=2.0)",
            "window_attn(heads=4, window=16)",
            "geglu(mult=2.0)",
        ),
        (
            "lightning(heads=2)",
            "mlp",
            "window_attn(heads=4, window=16)",
            "geglu(mult=2.0)",
        ),
        (
            "retnet(heads=4)",
            "mlp",
            "lightning(heads=4)",
            "mlp",
        ),
        (
            "conv_mixer(kernel=3)",
            "swiglu(mult=2.0)",
            "softmax_attn(heads=2, causal, pos=rope)",
            "mlp",
        ),
        (
            "gla",
            "swiglu(mult=4.0)",
            "softmax_attn(heads=8, causal, pos=rope)",
            "mlp(mult=2.0)",
        ),
        (
            "gla",
            "geglu(mult=2.0)",
            "gla",
            "swiglu(mult=4.0)",
        ),
        (
            "softmax_attn(heads=8, causal, pos=rope)",
            "swiglu(mult=2.0)",
            "gla",
            "geglu(mult=2.0)",
        ),
        (
            "linear_attn(heads=4, causal)",
            "swiglu(mult=2.0)",
            "softmax_attn(heads=4, kv_heads=1, causal, pos=rope)",
            "swiglu(mult=2.0)",
        ),
        (
            "simple_gla",
            "mlp(mult=2.0)",
            "retnet(heads=4)",
            "swiglu(mult=3.0)",
        ),
    ),
    "middle": (
        (
            "simple_gla",
            "swiglu(mult=2.0)",
            "lightning(heads=2)",
            "mlp(mult=2.0)",
            "softmax_attn(heads=4, kv_heads=2, causal, pos=rope)",
            "mlp(mult=2.0)",
            "window_attn(heads=4, window=16)",
            "swiglu(mult=4.0)",
        ),
        (
            "softmax_attn(heads=8, causal, pos=alibi)",
            "swiglu(mult=3.0)",
            "conv_mixer(kernel=3)",
            "geglu(mult=2.0)",
            "lightning(heads=4)",
            "mlp",
            "softmax_attn(heads=4, kv_heads=1, causal, pos=rope)",
            "geglu(mult=2.0)",
        ),
        (
            "conv_mixer(kernel=3)",
            "swiglu(mult=4.0)",
            "lightning(heads=2)",
            "mlp(mult=2.0)",
            "softmax_attn(heads=8, causal, pos=alibi)",
            "mlp(mult=2.0)",
            "window_attn(heads=4, window=16)",
            "mlp(mult=2.0)",
        ),
        (
            "softmax_attn(heads=4, causal, pos=alibi)",
            "swiglu(mult=3.0)",
            "softmax_attn(heads=4, kv_heads=2, causal, pos=rope)",
            "swiglu(mult=4.0)",
            "simple_gla",
            "swiglu(mult=4.0)",
            "lightning(heads=2)",
            "geglu(mult=2.0)",
        ),
    ),
    "large": (
        (
            "conv_mixer",
            "mlp(mult=2.0)",
            "window_attn(heads=4, window=128)",
            "geglu(mult=2.0)",
            "lightning(heads=4)",
            "swiglu(mult=4.0)",
            "retnet(heads=4)",
            "mlp(mult=2.0)",
            "softmax_attn(heads=4, causal)",
            "swiglu(mult=3.0)",
            "softmax_attn(heads=8, causal, pos=alibi)",
            "geglu(mult=2.0)",
            "softmax_attn(heads=2, causal)",
            "geglu(mult=2.0)",
            "conv_mixer",
            "geglu(mult=2.0)",
        ),
    ),
}


def texts() -> dict[tuple[str, str], str]:
    """The texts by (size, name), the seeds of a size first."""
    found: dict[tuple[str, str], str] = {}
    for name, size in SIZES.items():
        for seed in CHOSEN[name]:
            found[name, seed] = _layers(size, *SEEDS[seed])
        for number, parts in enumerate(SAMPLES[name], start=1):
            body = " >> ".join(f"residual(rms_norm >> {part})" for part in parts)
            found[name, f"sample{number}"] = f"embed(dim={size.dim}) >> {body} >> rms_norm >> head"
    return found
