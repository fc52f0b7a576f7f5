"""The study: what was asked, the trials so far, and Optuna as pruner and sampler of lr and decay.

One trial is one architecture, kept as one string in the trial's attributes (`nas.text`), never as
one Optuna parameter per choice. Everything a resume needs is in the study: workers only load it.
"""

import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from einspace.opfiles import enable, sums
from einspace.result import TrialRecord
from grammar.errors import StudyError, did_you_mean
from search import storage as places
from search.halving import REDUCTION
from search.records import trial_record

Stopping = Literal["hyperband", "halving", "none"]
LEARNING_RATE = (3e-4, 2e-2)
WEIGHT_DECAY = (1e-5, 1e-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a search is: the first block may not change under one study name.

    `objectives` are all of them, the task's metric (`objective`) first and the others made small;
    empty where the metric is the only one. `pruner` is how trials are stopped early; several
    objectives know `halving` and `none` only. `proxy` chooses among proposals
    (`search/strategies/filtered.py`), "" where nothing does. `ops` are the refs of the user's files
    of ops (`einspace/opfiles.py`). `seeds` are the architectures tried first, (name, text) each.
    """

    name: str
    space: str
    space_text: str
    task: str
    objective: str
    direction: Literal["maximize", "minimize"]
    epochs: int
    objectives: tuple[str, ...] = ()
    inherit: bool = False
    proxy: str = ""
    ops: tuple[str, ...] = ()

    min_epochs: int = 1
    seed: int = 0
    strategy: str = "evolution"
    pruner: Stopping = "hyperband"
    max_params: int | None = None
    max_flops: int | None = None
    max_nodes: int | None = None
    seeds: tuple[tuple[str, str], ...] = ()

    @property
    def goals(self) -> tuple[str, ...]:
        """All objectives, also where there is one."""
        return self.objectives or (self.objective,)

    @property
    def directions(self) -> tuple[Literal["maximize", "minimize"], ...]:
        """One for each of the goals."""
        costs: list[Literal["minimize"]] = ["minimize"] * (len(self.goals) - 1)
        return (self.direction, *costs)


class _Brackets(HyperbandPruner):
    """Hyperband whose brackets depend on the trial's number alone, so that the same seed gives the
    same table under another study name."""

    def _get_bracket_id(self, study: Study, trial: FrozenTrial) -> int:
        place = binascii.crc32(str(trial.number).encode()) % self._total_trial_allocation_budget
        for bracket, budget in enumerate(self._trial_allocation_budgets):
            place -= budget
            if place < 0:
                return bracket
        raise AssertionError("the budgets add up to their total")


class Pruner(BasePruner):
    """Hyperband over epochs. Not a `HyperbandPruner` itself: Optuna would then show TPE only the
    trials of one bracket, and a learning rate is worth knowing across brackets."""

    def __init__(self, min_epochs: int, epochs: int) -> None:
        self._inner = _Brackets(min(min_epochs, epochs), epochs, REDUCTION)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return self._inner.prune(study, trial)


def check_pruner(name: str | None, objectives: int) -> Stopping:
    """How trials of so many objectives are stopped, by default if not named. Raises: StudyError."""
    known: tuple[Stopping, ...] = get_args(Stopping)
    if name is None:
        return "halving" if objectives > 1 else "hyperband"
    if name not in known:
        raise StudyError(f"there is no pruner {name!r}", hint=did_you_mean(name, known))
    if name == "hyperband" and objectives > 1:
        raise StudyError(
            "hyperband compares trials by one number, and there are several objectives",
            hint="--pruner halving ranks them by dominance; none trains each to its end",
        )
    return next(word for word in known if word == name)


def pruner_of(setup: Setup) -> BasePruner:
    """Optuna's part in early stopping; several objectives are halved by `search.halving`."""
    if len(setup.goals) > 1 or setup.pruner == "none":
        return NopPruner()
    if setup.pruner == "halving":
        return SuccessiveHalvingPruner(
            min_resource=min(setup.min_epochs, setup.epochs), reduction_factor=REDUCTION
        )
    return Pruner(setup.min_epochs, setup.epochs)


class Sampler(BaseSampler):
    """TPE seeded anew by (seed, trial number): a resumed study goes on as if never stopped."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._inner = TPESampler(seed=seed)

    def reseed_rng(self) -> None:
        """Nothing: the seed is set at each trial."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner = TPESampler(seed=binascii.crc32(f"{self._seed}/{trial.number}".encode()))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._inner.after_trial(study, trial, state, values)


class Ledger:
    """An open study with its setup; the only object through which trials are written."""

    def __init__(self, storage: BaseStorage, setup: Setup, *, shared_lock: bool) -> None:
        self.storage, self.setup = storage, setup
        self.folder = places.study_dir(setup.name)
        self._finished: dict[int, TrialRecord] = {}
        # A journal's workers all take the same claim lock; a database's only per host.
        self.shared_lock = shared_lock
        self.study = optuna.load_study(
            study_name=setup.name,
            storage=storage,
            sampler=Sampler(setup.seed),
            pruner=pruner_of(setup),
        )

    def trials(self) -> list[FrozenTrial]:
        """Optuna's trials by number; read only."""
        return sorted(self.study.get_trials(deepcopy=False), key=lambda t: t.number)

    def table(self) -> tuple[TrialRecord, ...]:
        """The trial table by number; a finished trial cannot change and is read once."""
        rows, known = self.trials(), self._finished
        for trial in rows:
            if trial.number not in known and trial.state.is_finished():
                known[trial.number] = trial_record(trial)
        return tuple(known.get(t.number) or trial_record(t) for t in rows)

    def note(self, number: int, **attrs: object) -> None:
        """Sets attributes `nas.<key>` of an unfinished trial, also of another process's."""
        study = self.storage.get_study_id_from_name(self.setup.name)
        trial = self.storage.get_trial_id_from_study_id_trial_number(study, number)
        for key, value in attrs.items():
            self.storage.set_trial_user_attr(trial, f"nas.{key}", value)

    def rung(self, epoch: int) -> dict[int, tuple[float, ...]]:
        """The objectives that trials left at a rung, as points to be made small, by number.

        A trial that was given back counts through its retry alone.
        """
        sign = -1.0 if self.setup.direction == "maximize" else 1.0
        found: dict[int, tuple[float, ...]] = {}
        for trial in self.trials():
            values = trial.user_attrs.get("nas.rungs", {}).get(str(epoch))
            if values is not None and "nas.reaped" not in trial.user_attrs:
                found[trial.number] = (sign * values[0], *values[1:])
        return found

    def tags(self) -> Mapping[str, str]:
        """Versions, seed, threads, data hash, commit: how the search was run."""
        return {k: str(v) for k, v in self.study.user_attrs.get("nas.tags", {}).items()}


def space_sha(text: str) -> str:
    """The first digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def create(setup: Setup, tags: Mapping[str, str], url: str | None = None) -> Ledger:
    """Creates the study, or opens the one of this name if it asks the same.

    Raises: StudyError saying what differs.
    """
    storage = places.open_storage(setup.name, url, create=True)
    study = optuna.create_study(
        study_name=setup.name, storage=storage, directions=setup.directions, load_if_exists=True
    )
    known = study.user_attrs.get("nas.setup")
    if known is not None:
        _same_question(_setup(known), setup)
    new = json.loads(json.dumps(asdict(setup)))
    if known != new:
        study.set_user_attr("nas.setup", new)
    if study.user_attrs.get("nas.tags") != dict(tags):
        study.set_user_attr("nas.tags", dict(tags))
    return Ledger(storage, setup, shared_lock=url is None)


def open_ledger(name: str, url: str | None = None) -> Ledger:
    """Opens a study, and makes the files of its ops those of this process.

    Raises: StudyError listing the known ones when there is none of this name.
    """
    storage = places.open_storage(name, url)
    names = optuna.get_all_study_names(storage)
    if name not in names:
        raise places.unknown_study(name, places.known_studies() if url is None else names)
    attrs = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
    if "nas.setup" not in attrs:
        raise StudyError(
            f"study {name!r} holds no search",
            hint="it was made by another program, or its creation was cut off: run `search` again",
        )
    setup = _setup(attrs["nas.setup"])
    enable(setup.ops)
    return Ledger(storage, setup, shared_lock=url is None)


def _setup(stored: Mapping[str, Any]) -> Setup:
    known = {f.name for f in fields(Setup)}
    values = {k: v for k, v in stored.items() if k in known}
    seeds = tuple((str(n), str(t)) for n, t in values.pop("seeds", ()))
    objectives = tuple(str(name) for name in values.pop("objectives", ()))
    ops = tuple(str(ref) for ref in values.pop("ops", ()))
    return Setup(**values, seeds=seeds, objectives=objectives, ops=ops)


def _same_question(old: Setup, new: Setup) -> None:
    pairs = [
        (word, getattr(old, word), getattr(new, word))
        for word in ("task", "objective", "direction", "epochs", "inherit", "proxy")
    ]
    pairs.append(("objectives", ",".join(old.goals[1:]), ",".join(new.goals[1:])))
    if sums(old.ops) != sums(new.ops):  # The same content under another path is the same op.
        pairs.append(("ops", ", ".join(old.ops), ", ".join(new.ops)))
    differ = [f"{word} was {a or 'none'}, now {b or 'none'}" for word, a, b in pairs if a != b]
    if old.space_text != new.space_text:
        was, now = space_sha(old.space_text), space_sha(new.space_text)
        differ.insert(0, f"space was {old.space} (sha {was}), now {new.space} (sha {now})")
    hint = "give another --study name, or the same space, task and objective"
    if old.space_text != new.space_text:
        hint += f"; --warm-start {new.name} then carries its best over to the new space"
    if differ:
        raise StudyError(f"study {new.name!r} asks something else: {'; '.join(differ)}", hint=hint)
