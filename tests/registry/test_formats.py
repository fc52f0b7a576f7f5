"""Further forms of an export give the model's outputs at any batch, and hold no pickle or place."""

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from einspace.compile import Compiled, compile_text
from einspace.interface import Interface
from grammar.errors import ExportError
from ops.spec import image, scores, seq, tokens, vec
from registry import formats
from registry.export import export
from registry.formats import FORMATS, NEEDED, check_format, write_format
from registry.verify import verify

GPT = (
    "embed(dim=16) >> residual(rms_norm >> softmax_attn(heads=2, causal, pos=rope)) "
    ">> residual(rms_norm >> swiglu(mult=2)) >> head"
)
MODELS = {
    "gpt": (GPT, Interface({"tokens": tokens(9, 20)}, seq(9, 20), causal=True)),
    "conv": (
        "conv2d(dim=4, kernel=3) >> batch_norm >> relu >> max_pool2d(kernel=2) >> head",
        Interface({"x": image(1, 8, 8)}, scores(3)),
    ),
    "padded": (
        "embed(dim=16) >> pos_enc >> residual(layer_norm >> softmax_attn(heads=2)) >> head",
        Interface({"tokens": tokens(9, 20, may_pad=True)}, scores(3)),
    ),
    "pair": (
        "let enc = embed(dim=8) >> pool(kind=mean); fork(@left >> enc, @right >> enc) "
        ">> pair_features(kind=uvd) >> head",
        Interface(
            {"left": tokens(5, 20, may_pad=True), "right": tokens(7, 20, may_pad=True)}, scores(2)
        ),
    ),
}


def made(name: str) -> Compiled:
    return compile_text(*MODELS[name])


def needs(fmt: str) -> None:
    missing = [n for n in NEEDED[fmt] if importlib.util.find_spec(n) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: {formats.INSTALL}")


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["pt2", "onnx", "hf"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_form_holds_what_the_card_says_and_no_place_of_this_machine(
    name: str, fmt: str, tmp_path: Path
) -> None:
    needs(fmt)
    folder = export(made(name), None, tmp_path / "out", facts={}, fmt=fmt)
    assert verify(folder).ok
    text = (folder / "README.md").read_text()
    assert {"pt2": "model.pt2", "onnx": "model.onnx", "hf": "AutoModel"}[fmt] in text
    for path in folder.iterdir():
        assert path.is_file(), f"{path.name} is no part of an export"
        content = path.read_bytes()
        assert sys.prefix.encode() not in content, path.name
        assert str(tmp_path).encode() not in content, path.name
        assert path.suffix not in (".bin", ".pkl", ".pt"), path.name


def test_a_program_holds_no_pickle(tmp_path: Path) -> None:
    folder = export(made("gpt"), None, tmp_path / "out", facts={}, fmt="pt2")
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert [n for n, c in contents.items() if c.startswith((b"PK", b"\x80"))] == []
    assert any("weight" in n for n in contents)


def test_an_onnx_file_takes_any_batch(tmp_path: Path) -> None:
    needs("onnx")
    import onnxruntime

    folder = export(made("padded"), None, tmp_path / "out", facts={}, fmt="onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert [i.name for i in session.get_inputs()] == ["tokens"]
    sample = load_file(folder / "sample.safetensors")
    for batch in (1, 2, 5):
        x = sample["input_0"][:1].repeat(batch, 1)
        (y,) = session.run(None, {"tokens": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), sample["output"][:1].repeat(batch, 1))


LOAD = """
import os, sys
os.environ.update(HF_HOME=sys.argv[2], HF_HUB_OFFLINE="1")
import torch
from transformers import AutoConfig, AutoModel
from safetensors.torch import load_file
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
assert AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True).model_type == "einspace"
s = load_file(sys.argv[1] + "/sample.safetensors")
torch.testing.assert_close(model(tokens=s["input_0"]), s["output"])
assert not {"einspace", "ops", "grammar"} & set(sys.modules)
"""


def test_transformers_loads_the_folder_with_the_buffers_that_no_file_holds(tmp_path: Path) -> None:
    needs("hf")
    folder = export(made("padded"), None, tmp_path / "out", facts={}, fmt="hf")
    assert json.loads((folder / "config.json").read_text())["id"] == made("padded").hash
    command = [sys.executable, "-I", "-c", LOAD, str(folder), str(tmp_path / "cache")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("fmt", ["onnx", "hf"])
def test_a_missing_package_is_told_with_the_line_that_installs_it(
    fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "NEEDED", {**NEEDED, fmt: ("no_such_package_here",)})
    with pytest.raises(ExportError, match="needs no_such_package_here") as caught:
        export(made("conv"), None, tmp_path / "out", facts={}, fmt=fmt)
    assert caught.value.hint == "pip install -c constraints.txt -e '.[export]'"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fmt", ["../x", "", "pickle"])
def test_an_unknown_format_is_told_the_known_ones(fmt: str) -> None:
    with pytest.raises(ExportError, match="is not there") as caught:
        check_format(fmt)
    assert all(name in caught.value.hint for name in FORMATS)


class Digamma(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.digamma(x)


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 6) * 2


def test_an_op_without_an_onnx_form_is_named(tmp_path: Path) -> None:
    needs("onnx")
    with pytest.raises(ExportError, match=r"ONNX cannot express \w+\.digamma") as caught:
        write_format("onnx", Digamma(), {"x": vec(6)}, tmp_path)
    assert "pt2" in caught.value.hint


@pytest.mark.parametrize("fmt", ["pt2", "onnx"])
def test_a_model_that_fixes_its_batch_is_refused(fmt: str, tmp_path: Path) -> None:
    needs(fmt)
    with pytest.raises(ExportError, match=r"torch\.export cannot take this model"):
        write_format(fmt, FixedBatch(), {"x": vec(6)}, tmp_path)
    assert list(tmp_path.iterdir()) == []
