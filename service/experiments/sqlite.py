"""State in one SQLite file, shared by the workers of one machine."""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from service.experiments.errors import StateTimeout, StateUnavailable
from service.experiments.outcomes import Ledger
from service.experiments.record import Kind, Outcome, decode_record, encode_record
from service.experiments.state import T, VariantSums, expires_at
from service.experiments.sums import SLICE_S, Cell, CellSums, SliceProgress, slice_of
from slimctr.quality import QualitySums
from slimctr.quality.streaming import BINS

BUSY_TIMEOUT_S = 4.0
# Rows that one transaction forgets, so that others get their turn.
PRUNED_ROWS = 5_000
RETRY_S = 0.01

_SCHEMA = """
CREATE TABLE IF NOT EXISTS experiments (key TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    request_id TEXT PRIMARY KEY, due_at REAL, expires_at REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS requests_due ON requests (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS requests_expiry ON requests (expires_at);
CREATE TABLE IF NOT EXISTS outcomes (
    outcome_id TEXT PRIMARY KEY, expires_at REAL NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS outcomes_expiry ON outcomes (expires_at);
CREATE TABLE IF NOT EXISTS early (outcome_id TEXT PRIMARY KEY, expires_at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS early_expiry ON early (expires_at);
CREATE TABLE IF NOT EXISTS cells (
    id INTEGER PRIMARY KEY, experiment TEXT NOT NULL, slice INTEGER NOT NULL, kind TEXT NOT NULL,
    variant TEXT NOT NULL, exposed INTEGER NOT NULL, declined INTEGER NOT NULL, rows INTEGER NOT NULL,
    clicks INTEGER NOT NULL, sum_p REAL NOT NULL, sum_loss REAL NOT NULL,
    loss_diff REAL NOT NULL, loss_diff_squared REAL NOT NULL,
    UNIQUE (experiment, slice, kind, variant));
CREATE TABLE IF NOT EXISTS bins (
    cell INTEGER NOT NULL REFERENCES cells (id) ON DELETE CASCADE, bin INTEGER NOT NULL,
    non_clicks INTEGER NOT NULL, clicks INTEGER NOT NULL, PRIMARY KEY (cell, bin)) WITHOUT ROWID;
"""

_ADD_CELL = """
INSERT INTO cells (experiment, slice, kind, variant, exposed, declined, rows, clicks, sum_p, sum_loss,
    loss_diff, loss_diff_squared) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (experiment, slice, kind, variant) DO UPDATE SET exposed = exposed + excluded.exposed,
    declined = declined + excluded.declined, rows = rows + excluded.rows, clicks = clicks + excluded.clicks,
    sum_p = sum_p + excluded.sum_p, sum_loss = sum_loss + excluded.sum_loss,
    loss_diff = loss_diff + excluded.loss_diff,
    loss_diff_squared = loss_diff_squared + excluded.loss_diff_squared
RETURNING id
"""
_ADD_BIN = """
INSERT INTO bins (cell, bin, non_clicks, clicks) VALUES (?, ?, ?, ?)
ON CONFLICT (cell, bin) DO UPDATE SET
    non_clicks = non_clicks + excluded.non_clicks, clicks = clicks + excluded.clicks
"""


class SqliteState:
    """State in the file `path`; WAL, so that readers and one writer of several processes work side by side.

    A commit is on disk before the call returns (`synchronous=FULL`). An open file goes on taking writes after it was
    deleted, and loses them when the process ends: so each call compares what the path leads to with what is open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._opened: dict[Path, tuple[int, int]] = {}
        self._bytes = 0

    def open(self) -> None:
        """Open or make the file and its folder."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateUnavailable(f"cannot make the folder of {self._path}: {error.strerror}") from error
        try:
            self._connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        except sqlite3.Error as error:
            raise StateUnavailable(f"the state file {self._path} cannot be opened: {error}") from error
        with self._translated() as connection:
            _write_ahead(connection)
            for statement in ("synchronous = FULL", "foreign_keys = ON"):
                connection.execute(f"PRAGMA {statement}")
        with self._transaction() as connection:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
        # The write above made the files beside it; they stay as long as a connection does.
        beside = (self._path.with_name(self._path.name + suffix) for suffix in ("-wal", "-shm"))
        self._opened = {path: _identity(path) for path in (self._path, *beside)}

    def close(self) -> None:
        """Close the file."""
        self._opened, self._bytes = {}, 0
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def register(self, key: str, document: str) -> str:
        """Keep the first document of a key."""
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO experiments VALUES (?, ?)", (key, document))
            row = connection.execute("SELECT document FROM experiments WHERE key = ?", (key,)).fetchone()
        return str(row[0])

    def transact(
        self,
        request_ids: Collection[str],
        outcome_ids: Collection[str],
        step: Callable[[Ledger], T],
        now: float,
    ) -> T:
        """Run the step inside BEGIN IMMEDIATE: no other process writes between load and store."""
        with self._transaction() as connection:
            bodies = connection.execute(
                "SELECT request_id, body FROM requests WHERE request_id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(request_ids)),),
            )
            records = {request_id: decode_record(body) for request_id, body in bodies}
            reports = connection.execute(
                "SELECT outcome_id, body FROM outcomes WHERE outcome_id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(outcome_ids)),),
            )
            early = connection.execute("SELECT COUNT(*) FROM early WHERE expires_at > ?", (now,)).fetchone()
            ledger = Ledger(records, {key: Outcome(**json.loads(body)) for key, body in reports}, early[0])
            result = step(ledger)
            _store(connection, ledger, now)
        return result

    def due(self, now: float, limit: int) -> list[str]:
        """Read the index of open requests."""
        with self._translated() as connection:
            rows = connection.execute(
                "SELECT request_id FROM requests WHERE due_at <= ? ORDER BY due_at LIMIT ?", (now, limit)
            )
            return [request_id for (request_id,) in rows]

    def slices(self, experiment: str) -> list[SliceProgress]:
        """Add the cells of each slice up."""
        with self._translated() as connection:
            rows = connection.execute(
                "SELECT slice, SUM(exposed), SUM(rows), SUM(declined) FROM cells"
                " WHERE experiment = ? AND slice >= 0 GROUP BY slice ORDER BY slice",
                (experiment,),
            )
            return [SliceProgress(*row) for row in rows]

    def sums(self, experiment: str, first_slice: int, stop_slice: int) -> VariantSums:
        """Add the slices up inside SQLite."""
        span = (experiment, first_slice, stop_slice)
        histograms: dict[tuple[str, str], np.ndarray[tuple[int, int], np.dtype[np.int64]]] = {}
        with self._translated() as connection:
            for kind, variant, position, non_clicks, clicks in connection.execute(
                "SELECT kind, variant, bin, SUM(bins.non_clicks), SUM(bins.clicks)"
                " FROM cells JOIN bins ON cell = id WHERE experiment = ? AND slice >= ? AND slice < ?"
                " GROUP BY kind, variant, bin",
                span,
            ):
                histogram = histograms.setdefault((kind, variant), np.zeros((2, BINS), dtype=np.int64))
                histogram[:, position] = non_clicks, clicks
            found: VariantSums = {}
            for (
                kind,
                variant,
                exposed,
                declined,
                rows,
                clicks,
                sum_p,
                sum_loss,
                diff,
                squared,
            ) in connection.execute(
                "SELECT kind, variant, SUM(exposed), SUM(declined), SUM(rows), SUM(clicks), SUM(sum_p),"
                " SUM(sum_loss), SUM(loss_diff), SUM(loss_diff_squared) FROM cells"
                " WHERE experiment = ? AND slice >= ? AND slice < ? GROUP BY kind, variant",
                span,
            ):
                histogram = histograms.get((kind, variant), np.zeros((2, BINS), dtype=np.int64))
                quality = QualitySums(rows, clicks, sum_p, sum_loss, histogram)
                found[Kind(kind), variant] = CellSums(exposed, declined, quality, diff, squared)
        return found

    def prune(self, now: float, keep_slices_s: float) -> bool:
        """Delete some of what has expired."""
        oldest = slice_of(now - keep_slices_s - SLICE_S)
        with self._transaction() as connection:
            counts = [
                connection.execute(
                    f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {expired} LIMIT ?)",
                    (limit, PRUNED_ROWS // weight),
                ).rowcount
                * weight
                for table, key, expired, limit, weight in (
                    ("requests", "request_id", "expires_at <= ?", now, 1),
                    ("outcomes", "outcome_id", "expires_at <= ?", now, 1),
                    ("early", "outcome_id", "expires_at <= ?", now, 1),
                    # A cell takes its bins along.
                    ("cells", "id", "slice >= 0 AND slice < ?", oldest, 100),
                )
            ]
        return max(counts) >= PRUNED_ROWS

    @contextmanager
    def _translated(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._connection is None:
                raise sqlite3.ProgrammingError("it is not open")
            self._check_files()
            yield self._connection
        except sqlite3.Error as error:
            # Errors of the module itself have no code.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise StateTimeout(
                    f"the state file {self._path} was locked by another process for {BUSY_TIMEOUT_S:g} s; try again"
                ) from error
            raise StateUnavailable(f"the state file {self._path} cannot be used: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.rollback()
                raise
        self._check_files()

    def _check_files(self) -> None:
        """Raise StateUnavailable when what is open is not what a restart would find."""
        for path, opened in self._opened.items():
            try:
                if _identity(path) == opened:
                    continue
                what = "was replaced by another file"
            except OSError as error:
                what = f"cannot be found any more ({error.strerror})"
            raise StateUnavailable(
                f"the state file {path} {what}; put it back, or start the service again to use what is there then"
            )
        if self._opened:
            size = self._path.stat().st_size
            if size < self._bytes and not self._holds_all(size):
                raise StateUnavailable(
                    f"the state file {self._path} was cut from {self._bytes} to {size} bytes; restore or remove it, "
                    "and start the service again"
                )
            self._bytes = size

    def _holds_all(self, size: int) -> bool:
        """Say whether a file that has become smaller holds every page: then it was cleaned up (VACUUM), not cut."""
        assert self._connection is not None
        pages: int = self._connection.execute("PRAGMA page_count").fetchone()[0]
        page_bytes: int = self._connection.execute("PRAGMA page_size").fetchone()[0]
        return 0 < pages * page_bytes <= size


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL; unlike other statements, this one does not itself wait for a writer to end."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up_at:
                raise
            time.sleep(RETRY_S)


def _store(connection: sqlite3.Connection, ledger: Ledger, now: float) -> None:
    connection.executemany(
        "INSERT INTO requests VALUES (?, ?, ?, ?) ON CONFLICT (request_id) DO UPDATE SET"
        " due_at = excluded.due_at, expires_at = excluded.expires_at, body = excluded.body",
        [
            (request_id, record.due_at, expires_at(record, now), encode_record(record))
            for request_id, record in ledger.changed_records.items()
        ],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)",
        [
            (
                outcome.outcome_id,
                expires_at(ledger.record(outcome.request_id), now),
                json.dumps(asdict(outcome)),
            )
            for outcome in ledger.new_reports.values()
        ],
    )
    connection.executemany(
        "DELETE FROM early WHERE outcome_id = ?", [(name,) for name in ledger.no_longer_early]
    )
    connection.executemany(
        "INSERT OR REPLACE INTO early VALUES (?, ?)",
        [
            (outcome.outcome_id, expires_at(record, now))
            for record in ledger.changed_records.values()
            for outcome in record.early
        ],
    )
    for cell, delta in ledger.deltas().items():
        _add(connection, cell, delta)


def _add(connection: sqlite3.Connection, cell: Cell, delta: CellSums) -> None:
    quality = delta.quality
    (cell_id,) = connection.execute(
        _ADD_CELL,
        (
            *(cell.experiment, cell.slice, cell.kind, cell.variant, delta.exposed, delta.declined),
            *(quality.count, quality.clicks, quality.sum_p, quality.sum_loss),
            *(delta.loss_diff, delta.loss_diff_squared),
        ),
    ).fetchone()
    changed = np.flatnonzero(quality.histogram.any(axis=0))
    counts = quality.histogram[:, changed].T
    connection.executemany(
        _ADD_BIN,
        [(cell_id, int(position), *map(int, pair)) for position, pair in zip(changed, counts, strict=True)],
    )
