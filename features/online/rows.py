"""The embedded store's rows: newest feature row of each entity, in sqlite. Bytes in, bytes out; no Feast here.

One table a view, one row an entity. The key is the record key of ``features.<view>``, the value its record value, both
exactly as they were in Kafka, so that writing decodes nothing. A row is replaced only by one at least as new in event
time; the guard is part of the statement, so it holds whoever else writes. Readers never wait for writers (WAL).
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Row", "RowStore", "StoreBusyError", "StoreError", "StoreFullError", "newest", "retry_while_busy"]

Row = tuple[bytes, int, bytes]  # entity, event time in ms, value
_KEYS_AT_A_TIME = 500  # below sqlite's oldest limit of 999 variables a statement
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class StoreError(RuntimeError):
    """The store cannot do what was asked. The message names the file and what to do."""


class StoreBusyError(StoreError):
    """Another writer holds the store.

    Attributes
    ----------
    retry_after_seconds : float
        When to try again.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class StoreFullError(StoreBusyError):
    """There is no room left. It may come back, so this too says when to try again."""


class RowStore:
    """Feature rows in a sqlite file; to be shared by threads and processes.

    Parameters
    ----------
    path : Path
        Created when missing, with its folder.
    busy_seconds : float
        How long a write waits for another writer before it raises StoreBusyError.
    """

    refused = 0  # it takes any bytes; what they are worth is the reader's to find out

    def __init__(self, path: Path, busy_seconds: float = 5.0) -> None:
        self.path = path
        self._busy_seconds = busy_seconds
        self._local = threading.local()

    def ensure(self, view: str) -> None:
        """Create a view's table where it is missing."""
        with self._translated():
            self._connection().execute(
                f"CREATE TABLE IF NOT EXISTS {_table(view)} (entity BLOB PRIMARY KEY, event_ts INTEGER NOT NULL, "
                "created_ts INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID"
            )

    def clear(self, view: str) -> None:
        """Forget a view's rows."""
        with self._translated():
            self._connection().execute(f"DELETE FROM {_table(view)}")

    def drop(self, view: str) -> None:
        """Forget a view."""
        with self._translated():
            self._connection().execute(f"DROP TABLE IF EXISTS {_table(view)}")

    def write(self, rows: Mapping[str, Sequence[Row]], created_ms: int | None = None) -> None:
        """Write rows of any number of views in one transaction: all of them, or none.

        Parameters
        ----------
        rows : mapping of str to sequence of (bytes, int, bytes)
            By view: entity, event time in ms, value.
        created_ms : int, optional
            Time of writing; default: now.

        Raises
        ------
        StoreBusyError, StoreFullError
            Nothing was written; try again after the time it says.
        StoreError
            Nothing was written, and trying again will not help.
        """
        created = int(time.time() * 1e3) if created_ms is None else created_ms
        with self._translated():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                for view, each in rows.items():
                    connection.executemany(
                        f"INSERT INTO {_table(view)} VALUES (?1, ?2, {created:d}, ?3) ON CONFLICT (entity) DO UPDATE "
                        "SET event_ts = excluded.event_ts, created_ts = excluded.created_ts, value = excluded.value "
                        "WHERE excluded.event_ts >= event_ts",
                        each,
                    )
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def read(self, view: str, entities: Sequence[bytes]) -> dict[bytes, tuple[int, bytes]]:
        """Event time in ms and value of each entity there is."""
        found: dict[bytes, tuple[int, bytes]] = {}
        with self._translated():
            for start in range(0, len(entities), _KEYS_AT_A_TIME):
                part = entities[start : start + _KEYS_AT_A_TIME]
                marks = ",".join("?" * len(part))
                sql = f"SELECT entity, event_ts, value FROM {_table(view)} WHERE entity IN ({marks})"
                found.update((entity, (ts, value)) for entity, ts, value in self._connection().execute(sql, part))
        return found

    def count(self, view: str) -> int:
        """Entities of a view."""
        with self._translated():
            return int(self._connection().execute(f"SELECT count(*) FROM {_table(view)}").fetchone()[0])

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _connection(self) -> sqlite3.Connection:
        """The connection of this thread; one must not cross a fork either."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None or self._local.pid != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=self._busy_seconds, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing, a power cut may
            connection.execute("PRAGMA cache_size = -32768")
            self._local.connection, self._local.pid = connection, os.getpid()
        return connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Sqlite's errors as ours."""
        try:
            yield
        except OSError as exc:
            raise StoreError(f"{self.path}: {exc.strerror}; choose a path that can be written") from exc
        except sqlite3.Error as exc:
            code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
            if code in _BUSY:
                message = f"{self.path} is held by another writer for more than {self._busy_seconds:.1f} s"
                raise StoreBusyError(message, retry_after_seconds=0.1) from exc
            if code in _FULL:
                message = f"no room left for {self.path} ({exc}); free some, nothing is lost meanwhile"
                raise StoreFullError(message, retry_after_seconds=2.0) from exc
            hint = "run `feast apply`" if "no such table" in str(exc) else "check the file and its rights"
            raise StoreError(f"{self.path}: {exc}; {hint}") from exc


def retry_while_busy(
    action: Callable[[], None],
    patience_seconds: float,
    say: Callable[[StoreBusyError], None],
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Do something to the store, again while it is busy or full, for no longer than `patience_seconds` of waiting.

    Raises
    ------
    StoreBusyError
        The last one, when patience is at its end.
    """
    waited = 0.0
    while True:
        try:
            return action()
        except StoreBusyError as exc:
            if waited >= patience_seconds:
                raise
            say(exc)
            wait(exc.retry_after_seconds)
            waited += exc.retry_after_seconds


def newest(rows: Iterable[tuple[str, Row]]) -> dict[str, list[Row]]:
    """Of each view and entity the newest row; of equally new ones the last."""
    found: dict[str, dict[bytes, Row]] = {}
    for view, row in rows:
        kept = found.setdefault(view, {})
        before = kept.get(row[0])
        if before is None or row[1] >= before[1]:
            kept[row[0]] = row
    return {view: list(kept.values()) for view, kept in found.items()}


def _table(view: str) -> str:
    return '"features.' + view.replace('"', '""') + '"'
