"""Each synthetic task can be learned a little in seconds: a small architecture's loss falls."""

from dataclasses import replace

import pytest
import torch

from einspace.compile import compile_text
from einspace.load import load
from grammar.errors import DataError
from search.task import Data, Split
from search.tasks import find, names
from search.train import train

IMAGE = (
    "conv2d(dim=16, kernel=3) >> relu >> max_pool2d(kernel=4) >> conv2d(dim=32, kernel=3) >> relu "
    ">> head"
)
CAUSAL = (
    "embed(dim=32) >> residual(rms_norm >> softmax_attn(heads=2, causal, pos=rope)) >> rms_norm "
    ">> head"
)
NEW = [n for n in names() if n.endswith("mnist") or n.startswith(("mad_", "needle_"))]


@pytest.mark.parametrize("name", NEW)
def test_the_loss_of_a_small_architecture_falls(name: str) -> None:
    assert len(NEW) == 15
    try:
        task, data = find(name), find(name).load(0)
    except DataError as error:
        if "is not installed" in error.message:
            pytest.skip(f"{error.message}: {error.hint}")
        raise
    few = Data(
        Split(data.train.x[:512], data.train.y[:512]),
        Split(data.val.x[:64], data.val.y[:64]),
        data.test,
        data.provenance,
        data.sha256,
    )
    # Products show late: a net must tell digits apart before their product means anything.
    text, steps = (IMAGE, 40) if name.endswith("mnist") else (CAUSAL, 12)
    torch.manual_seed(0)
    model = load(compile_text(text, task.interface).source)()
    short = replace(task, steps_per_epoch=steps)
    result = train(model, short, few, seed=0, epochs=3, lr=1e-2, weight_decay=0.0)
    assert result.status == "ok"
    first, *_, last = result.curves["train_loss"]
    assert last < first - 0.02
