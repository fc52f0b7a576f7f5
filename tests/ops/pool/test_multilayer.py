"""Multi-layer pooling: one layer, order of layers, padding, and the layers of a repeat."""

import torch
from torch import Tensor

from einspace.compile import compile_text
from einspace.interface import Interface
from ops.pool.multilayer import MultilayerPool
from ops.pool.trainable import TrainablePool
from ops.spec import TensorType, scores, seq, tokens
from tests.einspace.oracle import built, interpret
from tests.ops.case import Case, close

OP_NAME = "multilayer_pool"
WAIVE = {
    "flops": "the latents' query is made once for the batch, as in trainable_pool",
    "gradients": "x carries width and padding; the own test looks at the layers' gradients",
}


def three(length: int, dim: int) -> TensorType:
    return TensorType("tuple", (), (seq(length, dim, may_pad=True),) * 3)


CASES = [
    Case(
        seq(9, 6, may_pad=True),
        {"heads": 2, "latents": 5},
        inputs=(three(9, 6),),
        waive=WAIVE | {"mask": "the layers are padded with x, which the suite does not know"},
    ),
    Case(
        seq(7, 6),
        {"heads": 3, "head_dim": 4, "latents": 2, "reduce": "mean", "norm": False},
        inputs=(three(7, 6),),
        waive=WAIVE | {"mask": "the layers are padded with x, which the suite does not know"},
    ),
]
SMALL = {"dim": 6, "heads": 2, "width": 3, "latents": 5, "norm": True}


def pool(count: int, reduce: str = "last") -> MultilayerPool:
    return MultilayerPool(**SMALL, count=count, reduce=reduce).double()  # type: ignore[arg-type]  # constructor words


def layers(count: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(count, 2, 9, 6, dtype=torch.float64).unbind(0))


def test_one_layer_is_trainable_pooling_of_its_last_token_and_the_layer_s_vector() -> None:
    layer, (h,) = pool(1), layers(1)
    peer = TrainablePool(**SMALL, over="last").double()  # type: ignore[arg-type]  # constructor words
    peer.load_state_dict(layer.block.state_dict())
    close(layer(h, (h,)), peer(h + layer.layer))


def test_order_of_layers_matters_through_their_vectors_alone() -> None:
    layer, hs = pool(3), layers(3)
    before, swapped = layer(hs[0], hs), layer(hs[0], hs[::-1])
    assert (before - swapped).abs().max() > 1e-6
    with torch.no_grad():
        layer.layer.zero_()
    close(layer(hs[0], hs), layer(hs[0], hs[::-1]))


def test_padding_changes_nothing() -> None:
    for reduce, mask, part in (
        ("last", torch.arange(9) < 6, slice(0, 6)),
        ("mean", torch.arange(9) >= 3, slice(3, 9)),
    ):
        layer, hs = pool(3, reduce), layers(3)
        short = tuple(h[:, part] for h in hs)
        close(layer(hs[0], hs, mask.expand(2, 9)), layer(short[0], short))


def test_every_layer_gets_a_gradient() -> None:
    hs = tuple(h.requires_grad_() for h in layers(3))
    pool(3)(hs[0], hs)[:, 0].sum().backward()
    for h in hs:
        assert h.grad is not None
        assert h.grad[:, -1].any()
        assert not h.grad[:, :-1].any()


def test_a_repeat_hands_over_its_layers() -> None:
    text = (
        "embed(dim=8) >> (residual(rms_norm >> softmax_attn(heads=2)) as h) * 4 "
        ">> multilayer_pool(layers=@h[], heads=2, latents=3) >> l2norm >> head"
    )
    kind = tokens(11, 20, may_pad=True)
    compiled = compile_text(text, Interface({"x": kind}, scores(3)))
    model = built(compiled)
    x = torch.randint(1, 20, (2, 11))
    x[1, 7:] = 0
    close(model(x), interpret(compiled, model, [x]))
    changed = x.clone()
    changed[1, 6] = x[1, 6] % 19 + 1
    assert not torch.equal(model(changed)[1], model(x)[1])
    (found,) = (m for m in model.modules() if type(m).__name__ == "MultilayerPool")
    assert found.layer.shape == (4, 8)
