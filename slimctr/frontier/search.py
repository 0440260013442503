"""The search itself: trials of Optuna in one process or several, resumable from the folder."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Literal

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from slimctr.errors import CompressionError, ConfigError, ExportError
from slimctr.frontier.folder import JournalLock
from slimctr.frontier.space import STARTS, suggest_chain
from slimctr.frontier.variants import Workshop
from slimctr.training import load_run

STUDY = "frontier"
TRIALS_FILE = "trials.log"
DONE = (TrialState.COMPLETE, TrialState.PRUNED)

Tell = Callable[[str], None]
Workers = Literal["processes", "ray"]
Share = tuple[Path, Path, Path | None, int, int]
"""Folder, run and data of the search, trials, seed."""


def search(
    folder: Path,
    run: Path,
    data: Path | None,
    trials: int,
    jobs: int,
    seed: int,
    tell: Tell = lambda line: None,
    workers: Workers = "processes",
) -> int:
    """Try chains until `trials` are done in `folder`, those of earlier calls included; return how many are done.

    Smallest artifact and highest validation AUC are sought together (multi-objective TPE). A chain that does not
    apply to the run counts as done. `jobs` processes, or tasks of a Ray cluster, share the trials; each computes on
    one thread. No other search may work in `folder` meanwhile: what it had begun counts as killed and is tried
    again. Raises ConfigError when Ray is asked for and not installed.
    """
    study = _open_study(folder, seed)
    for killed in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(killed.number, state=TrialState.FAIL)
        study.enqueue_trial({**killed.system_attrs.get("fixed_params", {}), **killed.params})
    for start in STARTS:
        study.enqueue_trial(dict(start), skip_if_exists=True)
    left = trials - _done(study)
    if left <= 0:
        return _done(study)
    shares = [left // jobs + (place < left % jobs) for place in range(min(jobs, left))]
    work = [(folder, run, data, share, seed + 1 + place) for place, share in enumerate(shares)]
    if workers == "ray":
        _on_ray(work)
    elif jobs == 1:
        _work(folder, run, data, left, seed, tell)
    else:
        _in_processes(work)
    return _done(_open_study(folder, seed))


def _in_processes(work: list[Share]) -> None:
    with ProcessPoolExecutor(
        len(work), mp_context=get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        for future in [pool.submit(_work, *share) for share in work]:
            try:
                future.result()
            except BrokenProcessPool:
                raise CompressionError(
                    "a process of the search died, perhaps for lack of memory; run again with fewer --jobs"
                ) from None


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone: a killed search computes no further."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(
            target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True
        ).start()


def _on_ray(work: list[Share]) -> None:
    """Run every share as a task of one core, on the cluster that Ray finds or on one started for this call.

    A task works in this folder, under the path it has here: machines of a cluster must share it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("--workers ray needs Ray: pip install 'slimctr[ray]'") from None
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    try:
        task = ray.remote(num_cpus=1, max_retries=0)(_work_at)
        ray.get([task.remote(Path.cwd(), *share) for share in work])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise CompressionError(
            f"Ray lost a part of the search; run again with fewer --jobs: {error}"
        ) from None
    finally:
        ray.shutdown()


def _work_at(place: Path, *share: *Share) -> None:
    os.chdir(place)
    _work(*share)


def _work(
    folder: Path, run: Path, data: Path | None, trials: int, seed: int, tell: Tell = lambda line: None
) -> None:
    torch.set_num_threads(1)
    study, workshop = _open_study(folder, seed), Workshop(folder, load_run(run), data)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        method, settings = suggest_chain(trial, workshop.run.spec)
        if not method:
            raise optuna.TrialPruned
        try:
            record = workshop.variant(method, settings)
        except (CompressionError, ExportError) as problem:
            tell(f"trial {trial.number}: {method} does not apply: {problem}")
            raise optuna.TrialPruned from None
        size, auc = record["bytes"]["artifact"], record["valid"]["auc"]
        tell(f"trial {trial.number}: {method}: {size:,} bytes, validation AUC {auc:.5f}")
        return float(size), float(auc)

    study.optimize(objective, n_trials=trials)


def _open_study(folder: Path, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(logging.ERROR)  # trials are told of by `tell`, failures by who called
    return optuna.create_study(
        study_name=STUDY,
        storage=JournalStorage(
            JournalFileBackend(str(folder / TRIALS_FILE), JournalLock(folder / TRIALS_FILE))
        ),
        directions=["minimize", "maximize"],
        sampler=optuna.samplers.TPESampler(seed=seed % 2**32),
        load_if_exists=True,
    )


def _done(study: optuna.Study) -> int:
    trials: list[FrozenTrial] = study.get_trials(deepcopy=False, states=DONE)
    return len(trials)
