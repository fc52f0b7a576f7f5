"""Sparse softmax attention: which keys each query sees, as numbers that the Triton engine walks.

    o_i = sum_j softmax_j(z_ij) v_j  over the keys j that i sees;  0 where it sees none
    z_ij = cap tanh((scale q_i . k_j - slope_h |i - j|) / cap);   sink_h: one more logit, no value

Shapes: q, o [B, H, T, D]; k, v [B, H_kv, T, D], each kv head read by H / H_kv heads; lse [B, H, T],
the log of the softmax's sum, -inf in a row that sees no key. `real` [B, T]: False at padding, whose
keys nobody sees (`own`: but the query there). The reference here writes all scores out and is the
specification; tensors on a GPU take the kernels (`ops.kernels.sparse_kernel`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.dispatch import on_triton
from ops.kernels.sparse_launch import SPARSE_KERNELS, SparseTriton


class SparsePattern:
    """Which keys j each query i sees:  j < hi_i and (j >= lo_i or j < head).

    Without `bounds` by arithmetic: lo_i = i - back, hi_i = max(i + ahead + 1, least); rows i < top
    see all. With `bounds`, int32 [B or 1, 4, T]: lo and hi of rows, then the first row that sees a
    column and the end of the stretch of rows that do; `spans`, int32 [B or 1, 4]: head, and x0, x1,
    y: rows x0 <= i < x1 see all columns j < y besides. With `step` d only keys with d | i - j are
    seen, and back and ahead count in steps. With `table`, uint8 [B or 1, H or 1, U, V], and
    `segment`, int32 [2, T], of the segments of queries and keys: only where it is not 0.
    """

    def __init__(
        self,
        back: int = 2**30,
        ahead: int = 2**30,
        *,
        least: int = 0,
        top: int = 0,
        head: int = 0,
        step: int = 1,
        bounds: Tensor | None = None,
        spans: Tensor | None = None,
        table: Tensor | None = None,
        segment: Tensor | None = None,
    ) -> None:
        self.band = (back, ahead, least, top, head)
        self.step, self.bounds, self.spans = step, bounds, spans
        self.table, self.segment = table, segment
        self.lists: tuple[Tensor, ...] | None = None
        self.part, self.aligned, self.exact = 0, False, False
        self.low = bounds is not None or back < 2**30
        self.headed = head > 0 or spans is not None
        self.extra = top > 0 or spans is not None
        free = bounds is None and table is None
        self.last_first = free and back >= 2**30 and ahead < 2**30
        self.short = free and back + ahead < 2048

    def seen(self, length: int, device: torch.device) -> Tensor:
        """Bool [B or 1, H or 1, T, T]."""
        place = torch.arange(length, device=device)
        i, j = place[:, None] // self.step, place // self.step
        back, ahead, least, top, head = self.band
        if self.bounds is None or self.spans is None:
            many = -(-length // self.step)
            lo = torch.where(i < top, 0, i - back)
            hi = torch.where(i < top, many, (i + ahead + 1).clamp_min(least))
            seen = (j < hi) & ((j >= lo) | (j < head))
        else:
            lo, hi = self.bounds[:, 0, :, None], self.bounds[:, 1, :, None]
            seen = (j < hi) & ((j >= lo) | (j < self.spans[:, :1, None]))
        seen = (seen & ((place[:, None] - place) % self.step == 0)).reshape(-1, 1, length, length)
        if self.table is not None and self.segment is not None:
            seen = seen & self.table.bool()[:, :, self.segment[0]][..., self.segment[1]]
        return seen


def sparse_documents(
    doc: Tensor, kind: str = "causal", *, prefix: int = 0, block: int = 1
) -> SparsePattern:
    """Tokens see their own document; `doc` [B or 1, T] numbers the documents, rising.

    kind: "full"; "causal" (s <= t); "shared": causal, and all see the first document; "last":
    causal, and the last document sees all before it; "prefix": causal, and each document's first
    `prefix` tokens are seen by all of it; "blocks": up to the end of the query's block of `block`.
    """
    t = doc.shape[1]
    place = torch.arange(t, device=doc.device).expand_as(doc)
    new = torch.ones_like(doc, dtype=torch.bool)
    new[:, 1:] = doc[:, 1:] != doc[:, :-1]
    start = torch.where(new, place, 0).cummax(1).values
    ends = torch.where(new.roll(-1, 1), place + 1, t)  # the last token's successor is the first
    end = ends.flip(1).cummin(1).values.flip(1)
    lo, hi, first, last = start, place + 1, place, end
    head, x0, x1 = (torch.zeros_like(start[:, 0]) for _ in range(3))
    if kind == "full":
        hi, first = end, start
    elif kind == "shared":
        head = end[:, 0]
        last = torch.where(place < head[:, None], t, end)
    elif kind == "last":
        x0, x1 = start[:, -1], x0 + t
        lo = torch.where(place >= x0[:, None], 0, start)
    elif kind == "prefix":
        hi = torch.maximum(hi, torch.minimum(start + prefix, end))
        first = torch.where(place - start < prefix, start, place)
    elif kind == "blocks":
        hi = torch.minimum(end, (place // block + 1) * block)
        first = torch.maximum(start, place // block * block)
    bounds = torch.stack([lo, hi, first, last], 1).to(torch.int32)
    spans = torch.stack([head, x0, x1, x0], 1).to(torch.int32)
    return SparsePattern(bounds=bounds, spans=spans)


def sparse_blocks(
    table: Tensor, rows: int | Tensor, columns: int | Tensor, length: int, *, causal: bool
) -> SparsePattern:
    """Query segment u sees key segment v where `table` bool [B or 1, H or 1, U, V] says so, and, if
    `causal`, keys up to the query. `rows`, `columns`: the size of all segments, or the segment of
    every token, rising, int [T]. The lists of tiles are made here, without waiting for the device.
    """
    place = torch.arange(length, device=table.device)
    which = [place // s if isinstance(s, int) else s for s in (rows, columns)]
    part = 128 if all(isinstance(s, int) and s % 128 == 0 for s in (rows, columns)) else 64
    count = -(-length // part)
    edge = [
        (
            s[::part],
            s[(torch.arange(1, count + 1, device=s.device) * part - 1).clamp_max(length - 1)],
        )
        for s in which
    ]
    (u0, u1), (v0, v1) = edge
    sums = F.pad(table.cumsum(-1, dtype=torch.int32), (1, 0))
    columns_of = sums[..., v1 + 1] - sums[..., v0]  # how many segments of each tile of keys
    sums = F.pad(columns_of.cumsum(-2, dtype=torch.int32), (0, 0, 1, 0))
    seen = sums[:, :, u1 + 1] - sums[:, :, u0]
    tile = torch.arange(count, device=table.device)
    inside = (tile + 1) * part <= length
    whole = (seen == (u1 - u0 + 1)[:, None] * (v1 - v0 + 1)) & inside[:, None] & inside
    some = seen > 0
    if causal:
        some = some & (tile[:, None] >= tile)
        whole = whole & (tile[:, None] > tile)
    pattern = SparsePattern(
        ahead=0 if causal else 2**30,
        table=table.to(torch.uint8).contiguous(),
        segment=torch.stack(which).to(torch.int32),
    )
    pattern.part, pattern.aligned = part, isinstance(columns, int) and columns % part == 0
    pattern.exact = pattern.aligned and isinstance(rows, int) and rows % part == 0
    pattern.lists = (*tile_lists(some, whole), *tile_lists(some.mT, whole.mT))
    return pattern


def tile_lists(some: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """(how many are whole and how many in all, [.., N, 2]; their numbers, whole ones first) of the
    tiles that are seen, of those seen whole, bool [.., N, N]."""
    whole = whole & some
    partial = some & ~whole
    first = whole.sum(-1, keepdim=True)
    spare = some.shape[-1]
    behind = torch.where(partial, first + partial.cumsum(-1) - 1, spare)
    slot = torch.where(whole, whole.cumsum(-1) - 1, behind)
    numbers = torch.arange(spare, device=some.device, dtype=torch.int32).expand_as(slot)
    lists = numbers.new_zeros(*some.shape[:-1], spare + 1).scatter(-1, slot, numbers)
    counts = torch.cat([first, some.sum(-1, keepdim=True)], -1).to(torch.int32)
    return counts, lists


def sparse_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: SparsePattern,
    *,
    scale: float,
    cap: float | None = None,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    real: Tensor | None = None,
    own: bool = False,
) -> tuple[Tensor, Tensor]:
    """(o, lse) with all scores written out."""
    t, group = q.shape[2], q.shape[1] // k.shape[1]
    k, v = (z.repeat_interleave(group, 1) for z in (k, v))
    place = torch.arange(t, device=q.device)
    gap = place[:, None] - place
    z = q @ k.mT * scale
    if slopes is not None:
        z = z - slopes.to(z.dtype)[:, None, None] * gap.abs()
    if cap is not None:
        z = cap * torch.tanh(z / cap)
    seen = pattern.seen(t, q.device)
    if real is not None:
        keys = real[:, None, None, :]
        seen = seen & (keys | (gap == 0) if own else keys)
    z = z.masked_fill(~seen, float("-inf"))
    lse = torch.logsumexp(z, -1)
    if sinks is not None:
        lse = torch.logaddexp(lse, sinks.to(lse.dtype)[:, None])
    base = lse.masked_fill(lse == float("-inf"), 0.0)
    weights = torch.where(seen, (z - base[..., None]).exp(), 0.0)
    return weights @ v, lse


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: SparsePattern,
    *,
    scale: float | None = None,
    cap: float | None = None,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    real: Tensor | None = None,
    own: bool = False,
) -> tuple[Tensor, Tensor]:
    """(o, lse); on a GPU by the kernels, for head widths up to 256, in the type of autocast."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if on_triton(q, k, v) and q.shape[-1] <= 256:
        kind = q.dtype
        if torch.is_autocast_enabled(q.device.type):
            kind = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(kind), k.to(kind), v.to(kind)
        none = (None, None, None)
        parts = (q, k, v, sinks, pattern, real, slopes, scale, cap, own, none)
        out, lse = SparseTriton.apply(*parts)  # type: ignore[no-untyped-call]  # torch has no type
        return out, lse
    return sparse_reference(
        q, k, v, pattern, scale=scale, cap=cap, slopes=slopes, sinks=sinks, real=real, own=own
    )


SPARSE: tuple[Callable[..., Any], ...] = (
    *SPARSE_KERNELS,
    on_triton,
    SparsePattern,
    sparse_documents,
    sparse_blocks,
    tile_lists,
    sparse_reference,
    sparse_attention,
)
