"""ClickHouse without a server: chdb, the engine in this process, behind the part of ClickHouse's HTTP interface that
``clickhouse_connect`` speaks. ``python -m compose.local.clickhouse --directory D --port P``

A chdb directory belongs to one process, so this is that process, and everyone else connects as to a real server.

What holds:

* Every request has an engine handle of its own: settings and the current database do not leak from one to another, and
  queries run beside inserts.
* An insert is streamed into the engine and answered after its part is on disk under its final name; a request that
  breaks off is cancelled. Killed and started again, the engine has every insert that was answered (a power cut is
  another matter: parts are not synced).
* Bound to the loopback address, without users or sessions; names and passwords are accepted and ignored, temporary
  tables do not outlive a request, and external data is refused.
"""

import argparse
import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from compose.local.clickhouse_wire import (
    InsertStatement,
    WireError,
    body_chunks,
    clean_message,
    error_code,
    form_fields,
    http_status,
    insert_head,
    output_format,
    setting_clause,
    split_parameters,
    statement_kind,
)

__all__ = ["ClickHouseServer", "Engine", "Limits", "main"]

BODY_BYTES_MAX = 64 << 20
HELD_BYTES = 16 << 20
DRAIN_SECONDS = 0.2
PURGE_SECONDS = 2.0
STREAMED = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"})
log = logging.getLogger("clickhouse")


@dataclass(frozen=True)
class Limits:
    """What the engine may use.

    Attributes
    ----------
    memory_bytes : int
        Of all queries, inserts and merges together; beyond it a query fails with MEMORY_LIMIT_EXCEEDED.
    query_memory_bytes : int
        Of one query.
    query_count : int
        Queries and inserts at a time; more wait.
    stop_seconds : float
        How long requests under way may take when the server is told to stop.
    """

    memory_bytes: int = 750 << 20
    query_memory_bytes: int = 500 << 20
    query_count: int = 8
    stop_seconds: float = 10.0


class Engine:
    """The one owner of a chdb directory.

    Parameters
    ----------
    directory : Path
        Created when missing.
    limits : Limits

    Raises
    ------
    OSError
        Where the directory cannot be written, or another process owns it; the message says which.
    """

    def __init__(self, directory: Path, limits: Limits) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = (directory / "owner.lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise OSError(f"{directory} belongs to another running process; stop that one first") from exc
        os.environ["TZ"] = "UTC"  # the engine reports it as the server's time zone
        time.tzset()
        from chdb.state import connect  # loads the engine: 0.5 s and the time zone as it is now

        options = {
            "max_server_memory_usage": limits.memory_bytes,
            "mark_cache_size": 32 << 20,
            "uncompressed_cache_size": 0,
            "background_pool_size": 2,
            "background_schedule_pool_size": 2,
            "max_thread_pool_size": 256,
        }
        self._target = f"{directory.resolve()}?{urlencode(options)}"
        self._query_memory_bytes = limits.query_memory_bytes
        self._connect = connect
        self._turn = threading.BoundedSemaphore(limits.query_count)
        self._used = threading.Event()
        self._closed = threading.Event()
        self._keep = connect(self._target)  # the engine lives as long as a handle to it does
        self.version = self._keep.query("SELECT version()", "TabSeparated").bytes().decode().strip()

    @contextmanager
    def handle(self, database: str, settings: dict[str, str]) -> Iterator[Any]:
        """A handle for one request."""
        with self._turn:
            handle = self._connect(self._target)
            try:
                settings = {"max_memory_usage": str(self._query_memory_bytes)} | settings
                handle.query(f"SET {setting_clause(settings)}", "TabSeparated")
                if database:
                    handle.query("USE `" + database.replace("`", "\\`") + "`", "TabSeparated")
                yield handle
            finally:
                handle.close()
                self._used.set()

    def purge(self) -> None:
        """Give memory back to the system after use, until closed: the allocator keeps it otherwise (1 GB, not 0.4)."""
        while not self._closed.wait(PURGE_SECONDS):
            if self._used.is_set():
                self._used.clear()
                with self._connect(self._target) as handle:
                    handle.query("SYSTEM JEMALLOC PURGE", "TabSeparated")

    def close(self) -> None:
        """Close the engine; it finishes what it writes."""
        self._closed.set()
        self._keep.close()
        self._lock.close()


class ClickHouseServer(ThreadingHTTPServer):
    """The HTTP side: one thread a connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, engine: Engine, port: int, limits: Limits | None = None) -> None:
        self.engine = engine
        self._limits = limits or Limits()
        self._busy = 0
        self._idle = threading.Condition()
        super().__init__(("127.0.0.1", port), _Handler)
        threading.Thread(target=engine.purge, daemon=True).start()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Around a request, so that :meth:`stop` can wait for it."""
        with self._idle:
            self._busy += 1
        try:
            yield
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()

    def stop(self) -> None:
        """After :meth:`shutdown`: let the requests under way end, close the engine."""
        self.server_close()
        with self._idle:
            if not self._idle.wait_for(lambda: self._busy == 0, timeout=self._limits.stop_seconds):
                log.warning("%d requests were still under way after %.0f s", self._busy, self._limits.stop_seconds)
                return
        self.engine.close()


class _Handler(BaseHTTPRequestHandler):
    server: ClickHouseServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    timeout = 600  # seconds a connection may idle

    def do_GET(self) -> None:
        if urlsplit(self.path).path in ("/ping", "/") and not urlsplit(self.path).query:
            self._answer(b"Ok.\n", {})
            return
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class names it so
        log.debug(format, *args)

    def _serve(self) -> None:
        self._begun = False
        self._body_read = False
        self._query_id = ""
        with self.server.busy():
            try:
                self._request()
            except (ConnectionError, TimeoutError):
                self.close_connection = True
            except Exception as exc:  # every failure is an answer in ClickHouse's form
                self._fail(str(exc))

    def _request(self) -> None:
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        content_type = self.headers.get("Content-Type", "")
        chunks = body_chunks(self.rfile, self.headers)
        if content_type.startswith("multipart/form-data"):
            parameters |= form_fields(content_type, _all(chunks))
            chunks = iter(())
        transport, bound, settings = split_parameters(parameters)
        self._query_id = transport.get("query_id") or str(uuid.uuid4())
        with self.server.engine.handle(transport.get("database", ""), settings) as handle:
            text = transport.get("query", "").encode()
            insert, rest = insert_head(text, chunks)
            if insert:
                self._insert(handle, insert, rest)
                return
            sql = b"".join([text, b"\n" if text else b"", _all(rest)]).strip()
            self._body_read = True
            if not sql:
                raise WireError("Code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)")
            self._query(handle, sql, bound, transport)

    def _insert(self, handle: Any, insert: InsertStatement, data: Iterator[bytes]) -> None:
        started = time.monotonic()
        stream = handle.send_insert(insert.sql, insert.format)
        try:
            for chunk in data:
                stream.append(chunk)
            written = stream.finish()
        except BaseException:
            stream.cancel()
            raise
        summary = {
            "written_rows": str(written.rows_written),
            "written_bytes": str(written.bytes_written),
            "elapsed_ns": str(int((time.monotonic() - started) * 1e9)),
        }
        self._answer(b"", {"X-ClickHouse-Summary": json.dumps(summary)})

    def _query(self, handle: Any, sql: bytes, bound: dict[str, str], transport: dict[str, str]) -> None:
        default = self.headers.get("X-ClickHouse-Format") or transport.get("default_format") or "TabSeparated"
        kind = output_format(sql) or default
        statement = statement_kind(sql)
        headers = {} if statement == "other" else {"X-ClickHouse-Format": kind}
        if statement == "select" and kind in STREAMED:
            held = HELD_BYTES if transport.get("wait_end_of_query") == "1" else 0
            self._stream(handle.send_query(sql, kind, params=bound), headers, held)
            return
        result = handle.query(sql, kind, params=bound)
        summary = {
            "read_rows": str(result.rows_read()),
            "read_bytes": str(result.bytes_read()),
            "elapsed_ns": str(int(result.elapsed() * 1e9)),
        }
        self._answer(result.bytes() or b"", headers | {"X-ClickHouse-Summary": json.dumps(summary)})

    def _stream(self, result: Any, headers: dict[str, str], held_bytes: int) -> None:
        """Blocks as they come; at least one, and up to `held_bytes`, are held back, and an error among them is a plain
        one. A later error ends the body, tagged, as a server's does.
        """
        blocks = iter(result)
        try:
            first: list[bytes] = []
            block = next(blocks, None)
            while block is not None and sum(map(len, first)) <= held_bytes:
                first.append(block.bytes())
                block = next(blocks, None)
            if block is None:
                self._answer(b"".join(first), headers)
                return
            tag = uuid.uuid4().hex[:16]
            self._begin(200, headers | {"X-ClickHouse-Exception-Tag": tag, "Transfer-Encoding": "chunked"})
            try:
                for data in first:
                    self._chunk(data)
                first.clear()
                while block is not None:
                    self._chunk(block.bytes())
                    block = next(blocks, None)
            except ConnectionError:
                raise
            except Exception as exc:
                text = clean_message(str(exc))
                self._chunk(f"\r\n__exception__\r\n{tag}\r\n{text}\n{len(text)} {tag}\r\n__exception__\r\n".encode())
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        finally:
            result.close()

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n" % len(data))
            self.wfile.write(data)
            self.wfile.write(b"\r\n")

    def _fail(self, message: str) -> None:
        if self._begun:  # too late for a status: end the connection, so that the answer is seen to be incomplete
            self.close_connection = True
            return
        text = clean_message(message)
        code = error_code(text)
        headers = {"X-ClickHouse-Exception-Code": str(code)}
        try:
            if not self._body_read:
                self._drain()
                self.close_connection = True
                headers["Connection"] = "close"
            self._answer(f"{text} (version {self.server.engine.version})\n".encode(), headers, http_status(code))
        except OSError:
            log.debug("client left before its error: %s", text)

    def _drain(self) -> None:
        """Read what the client still sends, within bounds, so that it gets to see the answer and not a reset."""
        self.connection.settimeout(DRAIN_SECONDS)
        seen = 0
        try:
            while seen < BODY_BYTES_MAX and (data := self.rfile.read1(1 << 16)):
                seen += len(data)
        except OSError:
            return

    def _answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self._begin(status, headers | {"Content-Length": str(len(body))})
        self.wfile.write(body)
        self.wfile.flush()

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self._begun = True
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("X-ClickHouse-Timezone", "UTC")
        if getattr(self, "_query_id", ""):
            self.send_header("X-ClickHouse-Query-Id", self._query_id)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _all(chunks: Iterator[bytes]) -> bytes:
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise WireError(f"Code: 62. DB::Exception: Query of more than {BODY_BYTES_MAX} bytes. (SYNTAX_ERROR)")
        parts.append(chunk)
    return b"".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns
    -------
    int
        0 after a clean stop, 1 where the directory or the port could not be had.
    """
    parser = argparse.ArgumentParser(prog="python -m compose.local.clickhouse", description=__doc__.split("\n\n")[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, default=Limits.memory_bytes)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    limits = Limits(memory_bytes=options.memory_bytes, query_memory_bytes=options.memory_bytes * 2 // 3)
    try:
        server = ClickHouseServer(Engine(options.directory, limits), options.port, limits)
    except Exception as exc:  # the engine raises RuntimeErrors of many kinds
        log.error("cannot serve %s on port %d: %s", options.directory, options.port, exc)
        return 1
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: threading.Thread(target=server.shutdown).start())
    sys.stdout.write(json.dumps({"event": "ready", "port": server.server_address[1], "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    server.serve_forever(poll_interval=0.1)
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
