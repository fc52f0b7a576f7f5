"""Further forms of an export, each read back and compared before it counts as written.

    pt2    `model.pt2`, a program of torch.export
    onnx   `model.onnx`, run with onnxruntime
    hf     `modeling_einspace.py` and `model.safetensors`: `AutoModel.from_pretrained(DIR,
           trust_remote_code=True)` of transformers gives the model

The batch is free in all of them: what was traced at batch 2 is compared at batches 1 and 3, one
sample of them padded where the input may be. No file holds a pickle or a path of this machine.
"""

import importlib.util
import json
import logging
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import ExportedProgram

from grammar.errors import ExportError
from ops.spec import TensorType
from registry.verify import SECONDS, TOLERANCE

PROGRAM, ONNX, HF_WEIGHTS, HF_CODE = (
    "model.pt2",
    "model.onnx",
    "model.safetensors",
    "modeling_einspace.py",
)
NEEDED: Mapping[str, tuple[str, ...]] = {
    "folder": (),
    "pt2": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "hf": ("transformers",),
}
FORMATS = tuple(NEEDED)
OPTIONAL = (PROGRAM, ONNX, HF_WEIGHTS, HF_CODE)
INSTALL = "pip install -c constraints.txt -e '.[export]'"
BATCHES = (1, 3)

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]

MODELING = '''"""The model for transformers; `model.py` beside this file holds all of it."""

import torch
from transformers import PretrainedConfig, PreTrainedModel

from .model import Model


class EinspaceConfig(PretrainedConfig):
    model_type = "einspace"


class EinspaceModel(PreTrainedModel):
    config_class = EinspaceConfig
    main_input_name = MAIN_INPUT

    def __init__(self, config):
        super().__init__(config)
        with torch.device("cpu"):
            self.model = Model()
        self.post_init()

    def _init_weights(self, module):
        """Every weight comes from the file."""

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Buffers that no file holds are computed anew: transformers leaves them empty."""
        found = super().from_pretrained(*args, **kwargs)
        model = (found[0] if isinstance(found, tuple) else found).model
        stored, fresh = model.state_dict(), dict(Model().named_buffers())
        for name, buffer in model.named_buffers():
            if name not in stored:
                buffer.data.copy_(fresh[name])
        return found

    def forward(self, *args, **kwargs):
        """Inputs in order, or by name; gives what `Model` gives."""
        named = [kwargs[name] for name in INPUTS[len(args) :]]
        return self.model(*args, *named)


INPUTS = ALL_INPUTS
'''
HF_PROGRAM = """
import json, sys
import torch
from safetensors.torch import load_file
from transformers import AutoModel
folder = sys.argv[1]
torch.set_num_threads(1)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
wanted = load_file(folder + "/weights.safetensors")
found = {k.removeprefix("model."): v for k, v in model.state_dict().items()}
same = found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)
sample = load_file(folder + "/sample.safetensors")
inputs = [sample[k] for k in sorted(sample, key=lambda k: (len(k), k)) if k.startswith("input")]
wanted = [sample[k] for k in sorted(sample, key=lambda k: (len(k), k)) if k.startswith("output")]
with torch.no_grad():
    y = model(*inputs)
found = [y] if isinstance(y, torch.Tensor) else list(y)
worst = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
scale = max([1.0, *(float(x.abs().max()) for x in wanted)])
print(json.dumps({"same": same, "worst": worst, "scale": scale}))
"""


def check_format(fmt: str) -> None:
    """Raises: ExportError for an unknown format, or one whose packages are not installed."""
    if fmt not in FORMATS:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise ExportError(f"the format {fmt!r} is not there", hint=f"use {known}")
    missing = [name for name in NEEDED[fmt] if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"--format {fmt} needs {', '.join(missing)}", hint=INSTALL)


def sample_input(kind: TensorType, seed: int = 0, batch: int = 2) -> Tensor:
    """Data of a type; tokens are never the padding."""
    generator = torch.Generator().manual_seed(seed)
    shape, inner = [batch, *kind.shape], kind
    while inner.kind == "items":
        inner = inner.items[0]
        shape += inner.shape
    if inner.kind == "tokens":
        return torch.randint(1, max(inner.vocab or 2, 2), shape, generator=generator)
    return torch.randn(shape, generator=generator)


def write_format(
    fmt: str, model: nn.Module, kinds: Mapping[str, TensorType], folder: Path
) -> tuple[str, ...]:
    """Write the files of `fmt` into `folder`; gives what its `requirements.txt` needs besides.

    Raises: ExportError when the form cannot express the model or gives other outputs.
    """
    if fmt == "pt2":
        _write_program(model, kinds, folder / PROGRAM)
    elif fmt == "onnx":
        _write_onnx(model, kinds, folder / ONNX)
        return ("onnxruntime>=1.24",)
    elif fmt == "hf":
        _write_hf(model, kinds, folder)
        return ("transformers>=5.0",)
    return ()


def _outputs(y: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [y] if isinstance(y, Tensor) else list(y)


def _compare(what: str, run: Run, model: nn.Module, kinds: Mapping[str, TensorType]) -> None:
    """Raises: ExportError where `run` and the model differ, at any batch."""
    for batch in BATCHES:
        inputs = [sample_input(kind, 7 + i, batch) for i, kind in enumerate(kinds.values())]
        for x, kind in zip(inputs, kinds.values(), strict=True):
            if kind.may_pad and kind.kind in ("tokens", "seq"):
                x[-1, max(1, kind.length // 2) :] = 0
        with torch.no_grad():
            wanted = _outputs(model(*inputs))
            try:
                found = run(inputs)
            except (RuntimeError, ValueError) as error:
                raise ExportError(
                    f"{what} does not run at batch {batch}: {_first(error)}"
                ) from None
        worst = max(
            float((a - b).abs().max()) if a.shape == b.shape else float("inf")
            for a, b in zip(found, wanted, strict=True)
        )
        scale = max(1.0, *(float(y.abs().max()) for y in wanted))
        if not worst <= TOLERANCE * scale:
            raise ExportError(
                f"{what} differs by {worst:g} at batch {batch}", hint="use --format folder"
            )


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:500]


def _program(model: nn.Module, kinds: Mapping[str, TensorType]) -> ExportedProgram:
    """The traced model: any batch, no example inputs (they are pickled), no places of files."""
    from torch._dynamo.exc import TorchDynamoException  # seconds to import

    inputs = tuple(sample_input(kind, i) for i, kind in enumerate(kinds.values()))
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                model, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs)
            )
    except (TorchDynamoException, RuntimeError, ValueError, TypeError) as error:
        raise ExportError(
            f"torch.export cannot take this model: {_first(error)}", hint="use --format folder"
        ) from error
    program._example_inputs = None  # torch has no public way to leave them out
    for graph in program.graph_module.modules():
        if isinstance(graph, torch.fx.GraphModule):
            for node in graph.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def _write_program(model: nn.Module, kinds: Mapping[str, TensorType], path: Path) -> None:
    torch.export.save(_program(model, kinds), path)
    read = torch.export.load(path).module()
    _compare(path.name, lambda inputs: _outputs(read(*inputs)), model, kinds)


def _write_onnx(model: nn.Module, kinds: Mapping[str, TensorType], path: Path) -> None:
    import onnx
    import onnxruntime
    from torch.onnx import OnnxExporterError

    program = _program(model, kinds)
    inputs = tuple(sample_input(kind, i) for i, kind in enumerate(kinds.values()))
    loud = logging.getLogger("torch.onnx")
    level = loud.level
    loud.setLevel(logging.ERROR)  # it tells of packages that we do not use
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program,
                inputs,
                dynamo=True,
                verbose=False,
                input_names=list(kinds),
            )
    except (OnnxExporterError, RuntimeError) as error:
        raise ExportError(
            f"ONNX cannot express {_culprit(error)}", hint="use --format folder, pt2 or hf"
        ) from error
    finally:
        loud.setLevel(level)
    assert made is not None
    proto = made.model_proto
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info):
        del part.metadata_props[:]  # traces of the exporter, with places on this machine
    for function in proto.functions:
        for part in (function, *function.node):
            del part.metadata_props[:]
    onnx.save(proto, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        named = {name: x.numpy() for name, x in zip(kinds, inputs, strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, named)]

    _compare(path.name, run, model, kinds)


def _culprit(error: BaseException) -> str:
    """The ops that have no ONNX form, as the chain of errors names them."""
    words, link = "", error
    while link is not None:
        words += f"{link}\n"
        link = link.__cause__ or link.__context__  # type: ignore[assignment]  # ends with None
    ops = dict.fromkeys(re.findall(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", words))
    return ", ".join(ops) or f"this model: {_first(error)}"


def _write_hf(model: nn.Module, kinds: Mapping[str, TensorType], folder: Path) -> None:
    state = {f"model.{k}": x.detach().contiguous() for k, x in model.state_dict().items()}
    save_file(state, folder / HF_WEIGHTS, metadata={"format": "pt"})
    names = list(kinds)
    code = MODELING.replace("MAIN_INPUT", repr(names[0])).replace("ALL_INPUTS", repr(names))
    (folder / HF_CODE).write_text(code, encoding="utf-8")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    stem = Path(HF_CODE).stem
    config |= {
        "model_type": "einspace",
        "architectures": ["EinspaceModel"],
        "auto_map": {
            "AutoConfig": f"{stem}.EinspaceConfig",
            "AutoModel": f"{stem}.EinspaceModel",
        },
    }
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def verify_hf(folder: Path) -> None:
    """Load the folder with transformers in a clean interpreter. Raises: ExportError."""
    with tempfile.TemporaryDirectory() as cache:  # it copies the code it runs to its cache
        offline = {"HF_HOME": cache, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        setup = f"import os; os.environ.update({offline!r})\n"
        try:
            run = subprocess.run(
                [sys.executable, "-I", "-B", "-c", setup + HF_PROGRAM, str(folder.resolve())],
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ExportError(f"transformers did not load it in {SECONDS} s") from None
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"transformers cannot load it: {last[:500]}", hint="use --format folder")
    found = json.loads(run.stdout.strip().splitlines()[-1])
    if not found["same"] or not found["worst"] <= TOLERANCE * found["scale"]:
        raise ExportError(
            f"transformers gives another model (difference {found['worst']:g})",
            hint="use --format folder",
        )
