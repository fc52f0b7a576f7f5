"""Compiles the recurrent engines' kernels for sm_90 and counts products with a computed left side.

    TRITON_INTERPRET=0 python -m tests.ops.kernels.left_sides

No GPU is needed. In the compiler's last own form a warpgroup product of a loaded left side reads
"warp_group_dot %a, ... : !ttg.memdesc", one of a computed left side ": tensor<... dot_op".
"""

import re
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ops.kernels import chunked_kernel, delta_kernel, diagonal_kernel

DOT = {"DOT": tl.bfloat16, "PRECISION": "tf32"}
NARROW = "Q K V DO DQ DK DV Y Z SOLVED SCRATCH FRESH RIGHT"
COMPUTED = re.compile(r"warp_group_dot .*?: tensor<[^>]*dot_op")


def cases(key: int, value: int) -> list[tuple[Any, dict[str, object], int]]:
    """(kernel, constants, warps) with the block sizes of 16-bit inputs."""
    read = {"KQ": key, "PQ": key, "KV": value, "BV": min(64, value), "C": 32, "HAS_STATE": True}
    both = {"BK": min(64, key), "PV": value, "HAS_LATER": True, "STORE_FIRST": True}
    sums = {"BZ": min(64, value), "KZ": value, "C": 64, "REVERSE": False}
    mild = {"BOUND": 80.0}
    rule = {"KQ": key, "PQ": key, "KV": value, "BV": 32, "GATED": True, "PROBE": False}
    c, d, r = chunked_kernel, diagonal_kernel, delta_kernel
    found: list[tuple[Any, dict[str, object]]] = [
        (c.decay_sums, {"KY": key, "PY": key, "GATED": True, **sums}),
        (c.decay_read, {"GATED": True, **read}),
        (c.decay_grads, {"GATED": True, "DOTS": True, **read, **both}),
        (d.diagonal_sums, {"K": key, "BK": min(64, key), **sums}),
        (d.diagonal_read, {**read, **mild}),
        (d.diagonal_grads, {"HAS_DOTS": True, **read, **both, **mild}),
        (r.delta_walk, {"HAS_FIRST": True, "KEEP": True, **rule}),
        (r.delta_back, {"HAS_LAST": True, "STORE_FIRST": True, **rule}),
    ]
    return [
        (kernel, {k: v for k, v in {**given, **DOT}.items() if k in kernel.arg_names}, 4)
        for kernel, given in found
    ]


def computed(kernel: Any, constants: dict[str, object], warps: int) -> int:
    """How many warpgroup products of the compiled kernel have a computed left side."""
    names = kernel.arg_names
    signature, attributes = {}, {}
    for n, name in enumerate(names):
        stride = len(name) == 2 and name[-1] in "bht"
        if name in constants:
            signature[name] = "constexpr"
        elif name.isupper() and name not in ("H", "T"):
            signature[name] = "*bf16" if name in NARROW.split() else "*fp32"
        else:
            signature[name] = "i32"
        if signature[name].startswith("*") or (signature[name] == "i32" and stride):
            attributes[(n,)] = [["tt.divisibility", 16]]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(k),): v for k, v in constants.items()},
        attrs=attributes,
    )
    options = {"num_warps": warps, "num_stages": 2}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert "warp_group_dot" in built.asm["ttgir"], "none at all: nothing was tested"
    return len(COMPUTED.findall(built.asm["ttgir"]))


if __name__ == "__main__":
    found = cases(64, 64)
    for kernel, constants, warps in found:
        print(kernel.__name__, computed(kernel, constants, warps), flush=True)
    kernel, constants, warps = found[1]
    print("tiles-of-64-rows", computed(kernel, constants | {"C": 64}, warps))
