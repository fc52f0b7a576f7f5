"""Identity: y = x. For a branch that does nothing, as in `cat(id, f)`."""

from torch import Tensor, nn

from ops.spec import Op, no_cost


class Id(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


OP = Op(
    name="id",
    module=Id,
    shape=lambda x: x,
    init=lambda x: {},
    cost=no_cost,
    causal=True,
    inline=lambda xs, params: xs[0],
)
