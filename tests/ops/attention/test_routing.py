"""Routing attention: dense limits, exact means, centroids that move only in update."""

import torch
from torch.nn import functional as F

from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from ops.attention.engine import split_heads
from ops.attention.routing import RoutingAttention
from ops.spec import scores, seq
from tests.ops.attention.plain import data
from tests.ops.case import Case, close

OP_NAME = "routing_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "clusters": 4, "window": 10}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "clusters": 3, "share": True, "ordered": True}),
    Case(seq(21, 12), {"heads": 3, "clusters": 1}),
]


def layer_of(
    clusters: int,
    window: int | None = None,
    share: bool = False,
    ordered: bool = False,
    decay: float = 0.999,
    beta: float = 1.0,
) -> RoutingAttention:
    torch.manual_seed(0)
    return RoutingAttention(12, 3, clusters, window, share, ordered, decay, beta).double()


def parts(layer: RoutingAttention, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Normed q and k, and v."""
    q, k, v = (split_heads(z, 3) for z in layer.project(x).chunk(3, -1))
    return F.layer_norm(q, (4,)), F.layer_norm(k, (4,)), v


def test_clusters_of_everything_are_dense_attention_on_the_sphere() -> None:
    for clusters in (1, 4):
        for ordered in (False, True):
            layer = layer_of(clusters, 21, ordered=ordered)
            q, k, v = parts(layer, data())
            logits = q @ k.mT / 2
            if ordered:
                logits = logits.masked_fill(torch.ones(21, 21).triu(1).bool(), float("-inf"))
            o = logits.softmax(-1) @ v
            close(layer(data())[0], layer.out(o.transpose(1, 2).flatten(2)))


def test_without_positions_it_is_equivariant() -> None:
    layer, order = layer_of(4), torch.randperm(21)
    close(layer(data()[:, order])[0], layer(data())[0][:, order])


def test_a_token_in_no_cluster_gives_zero_and_clusters_are_full() -> None:
    layer = layer_of(2, 3)
    q, _, _ = parts(layer, data())
    index, held = layer.members(q, torch.ones(2, 21, dtype=torch.bool))
    assert held.sum((2, 3)).eq(6).all()
    y = layer(data())[0]
    free = torch.ones(2, 21, dtype=torch.bool)
    for b in range(2):
        free[b, index[b].flatten()] = False
    assert free.any()
    assert not y[free].any()


def test_later_values_stay_out_when_ordered_and_the_choice_is_held() -> None:
    layer = layer_of(3, share=True, ordered=True)
    x = data().requires_grad_()
    layer(x)[0][:, 8].sum().backward()
    assert x.grad is not None
    assert not x.grad[:, 9:].any()


def test_centroids_move_only_in_update_and_to_the_means_of_their_tokens() -> None:
    layer = layer_of(3, decay=0.0)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    _, _, stats = layer(data())
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    q, k, _ = parts(layer, data())
    both = torch.cat([q, k], 2)
    nearest = (both @ layer.means.mT).argmax(-1)
    layer.update(stats)
    for h in range(3):
        for c in range(3):
            mine = both[:, h][nearest[:, h] == c]
            if len(mine):
                torch.testing.assert_close(layer.means[h, c], mine.mean(0), rtol=1e-4, atol=1e-4)
    layer.decay = 1.0
    held = layer.means.clone()
    layer.update(layer(data())[2])
    torch.testing.assert_close(layer.means, held)


def test_commitment_is_the_distance_to_the_own_centroid() -> None:
    layer = layer_of(3, share=True)
    q = F.layer_norm(split_heads(layer.project(data())[..., :12], 3), (4,))
    nearest = (q @ layer.means.mT).argmax(-1)
    mine = torch.stack([layer.means[h][nearest[:, h]] for h in range(3)], 1)
    close(layer(data())[1], 2 * (q - mine).square().mean())


def test_statistics_and_loss_reach_an_emitted_model() -> None:
    text = "residual(rms_norm >> routing_attn(heads=3, clusters=3, decay=0.5)) * 2 >> head"
    model = load(compile_text(text, Interface({"x": seq(9, 12)}, scores(2))).source)()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    y, aux, stats = model.forward_aux(torch.randn(2, 9, 12))
    (y.sum() + aux).backward()
    assert aux.item() > 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.update(stats)
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert sorted({k.rpartition(".")[2] for k in moved}) == ["counts", "means", "sums"]
    assert len(moved) == 6
