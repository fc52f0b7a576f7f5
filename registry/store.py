"""The model registry: a verified export folder becomes a version of `einspace-STUDY` in MLflow.

The model is logged from code (`serve.py`) with `model.py` and the safetensors as artifacts: no
pickle, and what is served is the file that was exported. The newest version is the `champion`.
"""

import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grammar.errors import ExportError
from registry.tracker import KEY, client_of, first_line, run_ids, study_run, tracking_errors

ALIAS = "champion"
SERVE = Path(__file__).with_name("serve.py")
NEEDED = ("mlflow", "numpy", "safetensors", "torch")


@dataclass(frozen=True, slots=True)
class Registered:
    """A version of a registered model; `uri` is what `mlflow.pyfunc.load_model` takes."""

    name: str
    version: int
    uri: str


def model_name(study: str) -> str:
    """The registered model of a study."""
    return "einspace-" + KEY.sub("_", study).replace("/", "_").replace(":", "_")


def register(folder: Path, uri: str, study: str, *, trial: int | None = None) -> Registered:
    """Log an exported folder in its trial's run (else the study's), register it, name it champion.

    Registering the same weights again gives the version that holds them.
    Raises: ExportError when the folder is no export; what MLflow raises when it cannot write.
    """
    config = _config(folder)
    digest = _digest(folder)
    client = client_of(uri)
    name = model_name(study)
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("nas.sha256") == digest:
            client.set_registered_model_alias(name, ALIAS, version.version)
            return _registered(name, version.version)
    run_id = _run(uri, study, trial)
    source = _log(folder, uri, run_id)
    tags = {"nas.sha256": digest, "nas.hash": str(config.get("id", "")), "nas.study": study}
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    with _pointed_at(uri):  # the SQL store looks the logged model up at the process-wide address
        made = client.create_model_version(
            name, source, run_id, tags=tags, model_id=source.removeprefix("models:/")
        )
    client.set_registered_model_alias(name, ALIAS, made.version)
    return _registered(name, made.version)


def try_register(
    folder: Path, uri: str, study: str, tell: Callable[[str], None], *, trial: int | None = None
) -> Registered | None:
    """`register`, where a failure is told and ends nothing: the exported folder is complete."""
    try:
        return register(folder, uri, study, trial=trial)
    except tracking_errors() as error:
        tell(f"the model was not registered in MLflow ({first_line(error)})")
        return None


def _registered(name: str, version: object) -> Registered:
    return Registered(name, int(str(version)), f"models:/{name}@{ALIAS}")


def _config(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ExportError(
            f"{folder} is not an export", hint="write one with: einspace export STUDY -o DIR"
        ) from None
    return dict(found)


def _digest(folder: Path) -> str:
    """The sha256 of what is served: the source and the weights."""
    digest = hashlib.sha256()
    for name in ("model.py", "weights.safetensors"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _run(uri: str, study: str, trial: int | None) -> str:
    """The run the model belongs to. Raises: ExportError when the study was not projected."""
    ids = run_ids(uri, study)
    if trial in ids:
        return ids[trial]
    parent = study_run(uri, study)
    if parent is None:
        raise ExportError(
            f"MLflow does not know the study {study!r}", hint=f"einspace repair {study}"
        )
    return parent


@contextmanager
def _pointed_at(uri: str) -> Iterator[None]:
    """MLflow's process-wide addresses, for as long as its fluent functions are used."""
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        # MLflow warns that it cannot infer a signature from `Any`; the model checks its input.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


def _log(folder: Path, uri: str, run_id: str) -> str:
    """Log the model into a run that is over, whose ending stays as it was; gives its URI."""
    import mlflow

    client = client_of(uri)
    info = client.get_run(run_id).info
    needed = [f"{package}=={importlib.metadata.version(package)}" for package in NEEDED]
    with _pointed_at(uri):
        try:
            with mlflow.start_run(run_id=run_id):
                logged = mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(SERVE),
                    artifacts={
                        "model": str(folder / "model.py"),
                        "weights": str(folder / "weights.safetensors"),
                    },
                    pip_requirements=needed,
                )
        finally:
            client.set_terminated(run_id, info.status, end_time=info.end_time)
    return str(logged.model_uri)
