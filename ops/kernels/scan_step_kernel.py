"""One step of a linear recurrence on a GPU: what it does to a state, read from its gates.

    plain  h -> a h + b
    gru    a = sig(-z), b = sig(z) g(c)
    lstm   a = sig(-d), b = sig(d) g(c), d = softplus(-f) - softplus(-i)
    g(u) = u + 1/2 for u >= 0, sig(u) below

The kernels of `scan_kernel.py` walk over these steps.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:

    @triton.jit
    def scan_join(a, b, c, d):
        """h -> a h + b, then h -> c h + d."""
        return a * c, c * b + d

    @triton.jit
    def scan_positive(u):
        """g(u) and g'(u)."""
        s = tl.sigmoid(u)
        return tl.where(u >= 0, u + 0.5, s), tl.where(u >= 0, 1.0, s * (1.0 - s))

    @triton.jit
    def scan_softplus(u):
        return tl.maximum(u, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(u)))

    @triton.jit
    def scan_share(first, second, at, keep, KIND: tl.constexpr):
        """The part of the state that a step takes away: 1 - a of gates, a itself if plain."""
        u = tl.load(first + at, mask=keep, other=0.0).to(tl.float32)
        if KIND == "gru":
            u = tl.sigmoid(u)
        if KIND == "lstm":
            v = tl.load(second + at, mask=keep, other=0.0).to(tl.float32)
            u = tl.sigmoid(scan_softplus(-u) - scan_softplus(-v))
        return u

    @triton.jit
    def scan_terms(first, second, third, at, keep, KIND: tl.constexpr):
        """a and b; where nothing is kept a step that changes no state."""
        a = scan_share(first, second, at, keep, KIND)
        if KIND == "plain":
            b = tl.load(second + at, mask=keep, other=0.0).to(tl.float32)
        else:
            source = second if KIND == "gru" else third
            value, _ = scan_positive(tl.load(source + at, mask=keep, other=0.0).to(tl.float32))
            b = a * value
            a = 1.0 - a
        return tl.where(keep, a, 1.0), tl.where(keep, b, 0.0)

    @triton.jit
    def scan_after(first, second, at, step, keep, KIND: tl.constexpr):
        """a_{t+1} at t; `keep` says where t + 1 exists."""
        a = scan_share(first, second, at + step, keep, KIND)
        return tl.where(keep, a if KIND == "plain" else 1.0 - a, 0.0)


SCAN_STEPS: tuple[Callable[..., Any], ...] = (
    (scan_join, scan_positive, scan_softplus, scan_share, scan_terms, scan_after)
    if triton is not None
    else ()
)
