"""Softmax attention whose seen pairs are a `SparsePattern`: by the sparse engine on a GPU.

A variant overrides `allowed`, the specification, and `pattern`, the same in the engine's words.
Elsewhere, and in float64, all scores are written out as in `ops.attention.engine`.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ops.attention.engine import ENGINE, ScoreAttention
from ops.kernels.dispatch import on_triton
from ops.kernels.sparse import SPARSE, SparsePattern, sparse_attention


class PatternAttention(ScoreAttention):
    def pattern(self, place: Tensor) -> SparsePattern | None:
        """Which of the places 0..T-1 see which; None: the engine does not serve."""
        return None

    def walk(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern, mask: Tensor | None
    ) -> Tensor:
        """The mixed values by the engine."""
        slopes = self.slopes if self.pos == "alibi" else None
        return sparse_attention(q, k, v, pattern, scale=self.scale, slopes=slopes, real=mask)[0]

    def blend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        place: Tensor,
        mask: Tensor | None,
        pairs: Tensor | None = None,
    ) -> Tensor:
        pattern = self.pattern(place) if pairs is None and on_triton(q, k, v) else None
        if pattern is None:
            return super().blend(q, k, v, place, mask, pairs)
        return self.walk(q, k, v, pattern, mask)


PATTERN_ENGINE: tuple[Callable[..., Any], ...] = (*ENGINE, *SPARSE, PatternAttention)
