"""The winner as an MLflow model *from code*: MLflow stores this file and runs it, with no pickle.

It stands alone: it loads `model.py` and `weights.safetensors`, which MLflow gives it as artifacts.
Input: an array of samples, or a list of arrays, one for each input of the model.
"""

import importlib.util
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc.model import PythonModel
from safetensors.torch import load_file


class Served(PythonModel):
    """`predict(array) -> array`."""

    def load_context(self, context: Any) -> None:
        spec = importlib.util.spec_from_file_location("served_model", context.artifacts["model"])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.model = module.Model()
        self.model.load_state_dict(load_file(context.artifacts["weights"]), strict=True)
        self.model.eval()

    # MLflow warns at any other type: it would infer a signature from it.
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> Any:
        several = isinstance(model_input, list | tuple)
        arrays = [np.asarray(a) for a in (model_input if several else [model_input])]
        tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
        inputs = [x.float() if x.is_floating_point() else x.long() for x in tensors]
        with torch.no_grad():
            y = self.model(*inputs)
        return y.numpy() if isinstance(y, torch.Tensor) else [part.numpy() for part in y]


mlflow.models.set_model(Served())
