"""The outcome join: pure rules from exposures and outcomes to row states and sums, on records in memory.

A state backend loads the records a step touches, lets the step work on a `Ledger`, and stores what it changed
in one transaction. Steps have no effect but on the ledger, so a backend may run one again after a conflict.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from service.experiments.record import Exposure, Kind, Outcome, Record, RowState
from service.experiments.sums import Cell, CellSums, Tally

CLOCK_SKEW_S = 5.0
# Outcomes that may wait for their exposure: of one request, and of all together (about 200 bytes each).
MAX_EARLY_OF_REQUEST = 1_000
MAX_EARLY = 100_000
_DECIDED_AS_CLICK = {RowState.CLICKED: True, RowState.DECLINED: False, RowState.MATURED: False}


class Status(StrEnum):
    """What became of an outcome."""

    JOINED = "joined"
    DUPLICATE = "duplicate"
    LATE = "late"
    ORPHAN = "orphan"
    CONFLICT = "conflict"
    RESTATED = "restated"
    REFUSED = "refused"
    AMBIGUOUS = "ambiguous"


class Written(StrEnum):
    """What became of an exposure: the first of its kind, a repeat of it, or another answer under a used id."""

    FIRST = "first"
    REPEAT = "repeat"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True)
class Verdict:
    """The status of one outcome; experiment and delay (seconds from exposure) when its exposure is known."""

    status: Status
    experiment: str | None = None
    delay_s: float | None = None


class Ledger:
    """Apply exposures, outcomes and maturity to the records that were loaded; remember what changed.

    `early` is how many outcomes wait in the state for their exposure.
    """

    def __init__(
        self, records: Mapping[str, Record], reported: Mapping[str, Outcome], early: int = 0
    ) -> None:
        self._records = dict(records)
        self._reported = dict(reported)
        self._early = early
        self._tally = Tally()
        self.changed_records: dict[str, Record] = {}
        self.new_reports: dict[str, Outcome] = {}
        self.verdicts_of_early: list[Verdict] = []
        self.no_longer_early: set[str] = set()
        self.written: Counter[tuple[str, Written]] = Counter()

    def record(self, request_id: str) -> Record:
        """Return what is known of a request, an empty record when that is nothing."""
        return self._records.get(request_id, Record())

    def deltas(self) -> dict[Cell, CellSums]:
        """Return what the steps add to the sums."""
        return self._tally.deltas()

    def expose(self, exposure: Exposure) -> Written:
        """Add an exposure and join what came before it.

        Another answer under the same id makes the id ambiguous, whichever came first: nobody can say which of them
        an outcome means, so the rows of all leave the sums and nothing joins them any more.
        """
        written = self._expose(exposure)
        self.written[exposure.experiment, written] += 1
        return written

    def _expose(self, exposure: Exposure) -> Written:
        record = self.record(exposure.request_id)
        answer = record.answer
        if record.ambiguous or (answer is not None and not answer.same_answer(exposure)):
            self._make_ambiguous(record, exposure)
            return Written.AMBIGUOUS
        taken = {Kind.LIVE: record.live, Kind.SHADOW: record.shadow, Kind.UNEXPOSED: answer}[exposure.kind]
        if taken is not None or (answer is not None and answer.exposed_at != exposure.exposed_at):
            return Written.REPEAT
        if exposure.kind is Kind.UNEXPOSED:
            record = replace(record, unexposed=exposure)
        else:
            self._tally.expose(exposure)
            if record.exposure is None:
                record = replace(record, states=bytes(exposure.rows), unexposed=None)
            else:
                self._catch_up(exposure, record.states)
            is_live = exposure.kind is Kind.LIVE
            record = replace(record, live=exposure) if is_live else replace(record, shadow=exposure)
        self._store(exposure.request_id, replace(record, early=()))
        self.no_longer_early.update(outcome.outcome_id for outcome in record.early)
        if exposure.kind is not Kind.UNEXPOSED:  # else they stay the orphans that they were counted as
            self.verdicts_of_early.extend(self._apply(outcome) for outcome in record.early)
        return Written.FIRST

    def _make_ambiguous(self, record: Record, exposure: Exposure) -> None:
        """Take back what was counted for the record; outcomes that joined or wait are counted as ambiguous too."""
        answers = [answer for answer in (record.answer, exposure) if answer is not None]
        latest = max(answers, key=lambda answer: answer.exposed_at)
        for known in _exposures(record):
            self._tally.expose(known, -known.rows)
            self._tally.decline(known, -record.states.count(RowState.DECLINED))
            for index, value in enumerate(record.states):
                clicked = _DECIDED_AS_CLICK.get(RowState(value))
                if clicked is not None:
                    self._tally.take_back(known, index, clicked)
        reported = len(record.early) + sum(
            record.states.count(state) for state in (RowState.CLICKED, RowState.DECLINED)
        )
        self.verdicts_of_early += reported * [Verdict(Status.AMBIGUOUS, latest.experiment)]
        self.no_longer_early.update(outcome.outcome_id for outcome in record.early)
        self._store(exposure.request_id, Record(unexposed=latest.without_scores(), ambiguous=True))

    def report(self, outcome: Outcome) -> Verdict:
        """Join one outcome; saying the same again changes nothing."""
        record = self.record(outcome.request_id)
        if record.ambiguous:
            return Verdict(Status.AMBIGUOUS, self._experiment_of(outcome))
        earlier = self._reported.get(outcome.outcome_id)
        if earlier is not None:
            same_row = (earlier.request_id, earlier.index) == (outcome.request_id, outcome.index)
            if same_row and earlier.clicked == outcome.clicked:
                return Verdict(Status.DUPLICATE, self._experiment_of(outcome))
            if not same_row or not outcome.restate:
                return Verdict(Status.CONFLICT, self._experiment_of(outcome))
        if record.answer is None:
            return self._keep_early(record, outcome)
        verdict = self._apply(outcome)
        if verdict.status in (Status.JOINED, Status.RESTATED, Status.LATE):
            self._remember(outcome)
        return verdict

    def _keep_early(self, record: Record, outcome: Outcome) -> Verdict:
        others = tuple(known for known in record.early if known.outcome_id != outcome.outcome_id)
        if len(others) == len(record.early):
            if self._early >= MAX_EARLY or len(others) >= MAX_EARLY_OF_REQUEST:
                return Verdict(Status.REFUSED)
            self._early += 1
        self._store(outcome.request_id, replace(record, early=(*others, outcome)))
        self._remember(outcome)
        return Verdict(Status.ORPHAN)

    def mature(self, request_id: str, now: float) -> int:
        """Count the open rows of a request as non-clicks if their time has come; return how many."""
        record = self.record(request_id)
        if record.due_at is None or record.due_at > now:
            return 0
        states = bytearray(record.states)
        open_rows = [index for index, state in enumerate(states) if state == RowState.OPEN]
        for index in open_rows:
            states[index] = RowState.MATURED
            for exposure in _exposures(record):
                self._tally.count(exposure, index, clicked=False)
        self._store(request_id, replace(record, states=bytes(states)))
        return len(open_rows)

    def _apply(self, outcome: Outcome) -> Verdict:
        record = self.record(outcome.request_id)
        exposure = record.exposure
        if exposure is None or outcome.index >= exposure.rows:
            return Verdict(Status.ORPHAN)
        delay_s = outcome.occurred_at - exposure.exposed_at
        in_window = -CLOCK_SKEW_S <= delay_s <= exposure.window_s + CLOCK_SKEW_S
        if outcome.clicked and not in_window:
            return Verdict(Status.LATE, exposure.experiment, delay_s)
        state = RowState(record.states[outcome.index])
        status = _transition(state, outcome)
        if status in (Status.JOINED, Status.RESTATED):
            self._decide(record, outcome, state)
        return Verdict(status, exposure.experiment, delay_s)

    def _decide(self, record: Record, outcome: Outcome, before: RowState) -> None:
        after = RowState.CLICKED if outcome.clicked else RowState.DECLINED
        was_click = _DECIDED_AS_CLICK.get(before)
        for exposure in _exposures(record):
            if was_click != outcome.clicked:
                if was_click is not None:
                    self._tally.take_back(exposure, outcome.index, was_click)
                self._tally.count(exposure, outcome.index, outcome.clicked)
            self._tally.decline(exposure, (after is RowState.DECLINED) - (before is RowState.DECLINED))
        states = bytearray(record.states)
        states[outcome.index] = after
        self._store(outcome.request_id, replace(record, states=bytes(states)))

    def _catch_up(self, exposure: Exposure, states: bytes) -> None:
        for index, value in enumerate(states):
            clicked = _DECIDED_AS_CLICK.get(RowState(value))
            if clicked is not None:
                self._tally.count(exposure, index, clicked)
        self._tally.decline(exposure, states.count(RowState.DECLINED))

    def _experiment_of(self, outcome: Outcome) -> str | None:
        answer = self.record(outcome.request_id).answer
        return None if answer is None else answer.experiment

    def _store(self, request_id: str, record: Record) -> None:
        self._records[request_id] = record
        self.changed_records[request_id] = record

    def _remember(self, outcome: Outcome) -> None:
        self._reported[outcome.outcome_id] = outcome
        self.new_reports[outcome.outcome_id] = outcome


def _exposures(record: Record) -> Iterable[Exposure]:
    return (exposure for exposure in (record.live, record.shadow) if exposure is not None)


def _transition(state: RowState, outcome: Outcome) -> Status:
    if state is RowState.OPEN:
        return Status.JOINED
    if state is RowState.MATURED:
        return Status.RESTATED if outcome.clicked else Status.JOINED
    if _DECIDED_AS_CLICK[state] == outcome.clicked:
        return Status.DUPLICATE
    return Status.RESTATED if outcome.restate else Status.CONFLICT
