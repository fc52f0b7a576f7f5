"""MaxSim: single tokens, order, bounds, padding, and a late-interaction ranker."""

import torch
from torch.nn import functional as F

from einspace.compile import compile_text
from einspace.interface import Interface
from ops.pair.maxsim import MaxSim
from ops.spec import scores, seq, tokens
from tests.einspace.oracle import built, interpret
from tests.ops.case import Case, close

OP_NAME = "maxsim"
WAIVE = {"mask": "the suite pads both values alike; the own test pads each by itself"}
CASES = [
    Case((seq(9, 6, may_pad=True), seq(9, 6, may_pad=True))),
    *(Case((seq(5, 4), seq(7, 4)), {"kind": kind}, waive=WAIVE) for kind in ("cos", "l2")),
]


def test_of_single_tokens_it_is_the_cosine() -> None:
    q, d = torch.randn(2, 3, 1, 6)
    close(MaxSim("cos")(q, d)[:, 0], F.cosine_similarity(q[:, 0], d[:, 0]))


def test_order_changes_nothing_and_the_score_is_at_most_the_query_s_length() -> None:
    q, d = torch.randn(2, 5, 6), torch.randn(2, 9, 6)
    close(MaxSim("dot")(q, d.flip(1)), MaxSim("dot")(q, d))
    assert (MaxSim("cos")(q, d) <= 5).all()
    close(MaxSim("cos")(q, torch.cat([d, q], 1)), torch.full((2, 1), 5.0))


def test_padding_of_either_side_changes_nothing() -> None:
    q, d = torch.randn(2, 5, 6), torch.randn(2, 9, 6) - 3
    masks = ((torch.arange(5) < 3).expand(2, 5), (torch.arange(9) >= 4).expand(2, 9))
    close(MaxSim("dot")(q, d, masks), MaxSim("dot")(q[:, :3], d[:, 4:]))
    none = (None, torch.zeros(2, 9, dtype=torch.bool))
    assert not MaxSim("dot")(q, d, none).any()


def test_late_interaction_in_the_language() -> None:
    text = "let enc = embed(dim=8) >> l2norm; maxsim(@query >> enc, @document >> enc)"
    kinds = {"query": tokens(4, 20), "document": tokens(9, 20, may_pad=True)}
    compiled = compile_text(text, Interface(kinds, scores(1)))
    model = built(compiled)
    q, d = torch.randint(1, 20, (2, 4)), torch.randint(1, 20, (2, 9))
    d[:, 5:] = 0
    close(model(q, d), interpret(compiled, model, [q, d]))
    close(model(q, q[:, [0, 1, 2, 3, 0, 1, 2, 3, 0]]), torch.full((2, 1), 4.0))
