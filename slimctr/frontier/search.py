"""The search itself: trials of Optuna in one process or several, resumable from the folder."""

import logging
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from slimctr.errors import CompressionError, ExportError
from slimctr.frontier.space import STARTS, suggest_chain
from slimctr.frontier.variants import Workshop

STUDY = "frontier"
TRIALS_FILE = "trials.log"
DONE = (TrialState.COMPLETE, TrialState.PRUNED)

Tell = Callable[[str], None]


def search(
    folder: Path,
    run: Path,
    data: Path | None,
    trials: int,
    jobs: int,
    seed: int,
    tell: Tell = lambda line: None,
) -> int:
    """Try chains until `trials` are done in `folder`, those of earlier calls included; return how many are done.

    Smallest artifact and highest validation AUC are sought together (multi-objective TPE). A chain that does not
    apply to the run counts as done. `jobs` processes share the trials; each computes on one thread.
    """
    study = _open_study(folder, seed)
    if not study.trials:
        for start in STARTS:
            study.enqueue_trial(dict(start))
    left = trials - _done(study)
    if left <= 0:
        return _done(study)
    if jobs == 1:
        _work(folder, run, data, left, seed, tell)
    else:
        shares = [left // jobs + (place < left % jobs) for place in range(jobs)]
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            work = [
                pool.submit(_work, folder, run, data, share, seed + 1 + place)
                for place, share in enumerate(shares)
                if share
            ]
            for future in work:
                try:
                    future.result()
                except BrokenProcessPool:
                    raise CompressionError(
                        "a process of the search died, perhaps for lack of memory; run again with fewer --jobs"
                    ) from None
    return _done(_open_study(folder, seed))


def _work(
    folder: Path, run: Path, data: Path | None, trials: int, seed: int, tell: Tell = lambda line: None
) -> None:
    torch.set_num_threads(1)
    study, workshop = _open_study(folder, seed), Workshop(folder, run, data)

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
    optuna.logging.set_verbosity(logging.WARNING)  # trials are told of by `tell`
    return optuna.create_study(
        study_name=STUDY,
        storage=JournalStorage(JournalFileBackend(str(folder / TRIALS_FILE))),
        directions=["minimize", "maximize"],
        sampler=optuna.samplers.TPESampler(seed=seed),
        load_if_exists=True,
    )


def _done(study: optuna.Study) -> int:
    trials: list[FrozenTrial] = study.get_trials(deepcopy=False, states=DONE)
    return len(trials)
