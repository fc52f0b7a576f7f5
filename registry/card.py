"""The card: an exported folder's README, which says what the model is and how to use it."""

from collections.abc import Mapping

from einspace.compile import Compiled
from einspace.result import SearchRecord


def plain(text: str) -> str:
    """One line for a table cell, without characters that could open markup."""
    line = " ".join(text.split()).replace("\\", "/").replace("`", "'").replace("|", "\\|")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("[", "&#91;")


def fenced(text: str) -> str:
    """One line for a code block, which ends only at backticks."""
    return " ".join(text.split()).replace("`", "'")


def final_facts(record: SearchRecord) -> dict[str, str]:
    """What the card says of a winner: where it comes from and what its final training gave."""
    final = record.final
    return {
        "study": record.study,
        "task": record.task,
        "data": record.tags.get("data", ""),
        f"test {record.metric}": f"{final['mean']:.4f} +- {final['deviation']:.4f}",
        "seeds": str(final["seeds"]),
        "epochs": str(final["epochs"]),
    }


USES = {
    "pt2": """
`model.pt2` is the same as a program of torch.export, for any batch:

```python
y = torch.export.load("model.pt2").module()(INPUTS)
```
""",
    "onnx": """
`model.onnx` is the same for any batch, without torch:

```python
session = onnxruntime.InferenceSession("model.onnx")
y = session.run(None, {NAMED})  # numpy arrays
```
""",
    "hf": """
transformers loads this folder too; it runs the code in it:

```python
model = AutoModel.from_pretrained(".", trust_remote_code=True)
```
""",
}


KERNELS = """
On an NVIDIA GPU it runs Triton kernels where `triton>=3.6` is installed (torch for CUDA brings it),
and plain PyTorch elsewhere.
"""


def card(compiled: Compiled, facts: Mapping[str, str], fmt: str = "folder") -> str:
    """The README of an exported folder, in Markdown."""
    rows = "\n".join(f"| {plain(k)} | {plain(v)} |" for k, v in facts.items() if v)
    calls = ", ".join(compiled.interface.inputs)
    named = ", ".join(f'"{name}": {name}' for name in compiled.interface.inputs)
    kernels = KERNELS if "import triton" in compiled.source else ""
    use = kernels + USES.get(fmt, "").replace("INPUTS", calls).replace("{NAMED}", f"{{{named}}}")
    return f"""# A neural network as one file

```
{fenced(compiled.text)}
```

| fact | value |
|---|---|
| id | {compiled.hash} |
| input | {compiled.input} |
| output | {compiled.output} |
| parameters | {compiled.params:,} |
| FLOPs, forward, one sample | {compiled.flops:,} |
{rows}

`model.py` needs torch and safetensors, nothing else:

```python
from safetensors.torch import load_file
from model import Model

model = Model()
model.load_state_dict(load_file("weights.safetensors"))
y = model.eval()({calls})  # with a batch axis in front
```
{use}
`graph.svg` shows it. `sample.safetensors` holds an input and the output it must give.
"""
