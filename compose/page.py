"""The page: what flows, how good the predictions are, what drifts, and what was done about it.

``python -m compose.page --port P --clickhouse URL --kafka HOST:PORT --flink URL --home DIR``

Nothing is computed unless a browser asks, and then at most every few seconds. Rescoring the year with the first model
happens in a thread of the lowest priority, a week of event time at a go, and stops when nobody looks any more.
"""

import argparse
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import clickhouse_connect
import numpy as np
import pandas as pd
from clickhouse_connect.driver.client import Client

from compose.control import ControlLog, Incident, first_model, fold, milliseconds, promotions
from compose.finite import finite
from compose.heatmap import Heatmap
from compose.live import Live
from compose.performance import Performance, Scored
from monitors.dashboard import FILES

__all__ = ["Endpoints", "Page", "main", "spans"]

HOST = "127.0.0.1"
LOOKING_S = 15.0
PAUSE_S = 0.2
REST_S = 3.0
BUCKET_DAYS = (1, 7)
STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}
PAGE_POLICY = "default-src 'self'; style-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
# Evidently's reports carry their scripts inside; they get an origin of their own and may fetch nothing.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
log = logging.getLogger("page")


@dataclass(frozen=True)
class Endpoints:
    """Where the page reads.

    Attributes
    ----------
    kafka : str
        ``host:port``.
    clickhouse, flink : str
        URLs; without Flink (empty) its jobs' states are not shown.
    home : Path
        Holds ``reports/``.
    """

    kafka: str
    clickhouse: str
    flink: str
    home: Path


class _Cached:
    """The answer of a function, asked again only when older than so many seconds, and by one thread at a time."""

    def __init__(self, ask: Callable[[], Any], seconds: float) -> None:
        self._ask, self._seconds, self._lock = ask, seconds, threading.Lock()
        self._answer: Any = None
        self._asked = float("-inf")

    def __call__(self) -> Any:
        with self._lock:
            if time.monotonic() - self._asked >= self._seconds:
                self._answer = self._ask()
                self._asked = time.monotonic()
            return self._answer


class Page:
    """What the page shows, from Kafka, ClickHouse and Flink.

    Parameters
    ----------
    endpoints : Endpoints
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self._control = ControlLog(endpoints.kafka)
        self._heatmap = Heatmap(endpoints.kafka)
        self._live = Live(endpoints.kafka, endpoints.flink, self._client)
        self._performance = Performance()
        self._client_lock = threading.Lock()
        self._shared_client: Client | None = None
        self._looked = float("-inf")
        self._wake = threading.Event()
        self._stopping = False
        self.records = _Cached(self._read_control, 2.0)
        self.live = _Cached(self._snapshot, 2.0)
        self.drift = _Cached(self._read_drift, 5.0)
        self._worker = threading.Thread(target=self._work, name="rescoring", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """Stop the background work."""
        self._stopping = True
        self._wake.set()
        self._worker.join(10)

    def performance(self, bucket_days: int) -> dict[str, Any]:
        """Performance over event time; asking for it is what keeps the background work going."""
        self._looked = time.monotonic()
        self._wake.set()
        model = first_model(self.records())
        self.drift()
        return {
            "bucket_days": bucket_days,
            "estimates": self._heatmap.estimates.series(),
            "buckets": self._performance.series(bucket_days),
            "overall": self._performance.overall(),
            "frozen_version": model[0] if model else None,
            "frozen_from_ms": model[2] if model else None,
            "promotions": promotions(self.records()),
            "quarantines": spans(fold(self.records())),
        }

    def incidents(self) -> dict[str, Any]:
        """Incidents oldest first, model changes, spans kept out of training."""
        records = self.records()
        found = fold(records)
        return {
            "incidents": [asdict(each) | {"report_url": self._report_url(each)} for each in found],
            "promotions": promotions(records),
            "quarantines": spans(found),
        }

    def report(self, name: str) -> Path | None:
        """The file of a report, if there is one of that very name."""
        folder = self.endpoints.home / "reports"
        # Compared with what is there, never joined to a path: nothing outside the folder can be named.
        return next((each for each in folder.glob("*.html") if each.name == name and each.is_file()), None)

    def _report_url(self, incident: Incident) -> str | None:
        name = f"{incident.incident_id}.html"
        return f"/reports/{name}" if self.report(name) else None

    def _read_control(self) -> dict[str, list[dict[str, Any]]]:
        self._control.refresh()
        return self._control.records

    def _read_drift(self) -> dict[str, Any]:
        self._heatmap.refresh()
        return self._heatmap.as_dict()

    def _snapshot(self) -> dict[str, Any]:
        control = self.records()["models.control"]
        horizons = [milliseconds(each["watermark"]) for each in control if each["watermark"] is not None]
        in_charge = promotions(self.records())
        told = self._live.snapshot(max(horizons, default=None))
        pending = [each for each in fold(self.records()) if each.submission in ("intent", "accepted")]
        return told | {
            "at_ms": round(time.time() * 1000),
            "model_version": in_charge[-1]["version"] if in_charge else "prior",
            "training": [{"incident_id": each.incident_id, "monitor": each.monitor} for each in pending],
        }

    def _client(self) -> Client:
        with self._client_lock:
            if self._shared_client is None:
                # Without a session queries may run side by side.
                self._shared_client = clickhouse_connect.get_client(
                    dsn=self.endpoints.clickhouse, autogenerate_session_id=False, connect_timeout=3
                )
            return self._shared_client

    def _work(self) -> None:
        # Niceness is a thread's own on Linux; elsewhere this is the whole process, which is as well.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        score: Callable[[pd.DataFrame], Any] | None = None
        while not self._stopping:
            self._wake.wait()
            if self._stopping:
                return
            if time.monotonic() - self._looked > LOOKING_S:
                self._wake.clear()
                continue
            try:
                model = first_model(self.records())
                score = score or (_scorer(model[0], model[1]) if model else None)
                frozen = Scored(model[0], model[2], score) if model and score else None
                worked = self._performance.step(self._client(), frozen)
            except Exception as exc:  # the archive is not there yet, or gone for a moment: try again later
                log.info("performance: %s", str(exc).splitlines()[0] if str(exc) else repr(exc))
                worked = False
            time.sleep(PAUSE_S if worked else REST_S)


def _scorer(version: str, uri: str) -> Callable[[pd.DataFrame], Any]:
    from jobs.serving import Scorer  # onnxruntime takes its time

    scorer: Any = Scorer()

    def score(frame: pd.DataFrame) -> Any:
        rows = len(frame)
        return scorer.score(frame, np.full(rows, version, object), np.full(rows, uri, object), np.zeros(rows))

    return score


def spans(incidents: Sequence[Incident]) -> list[dict[str, Any]]:
    """Spans of event time in which the data or we were at fault, which are kept out of training sets."""
    return [
        {"start_ms": each.start_ms, "end_ms": each.end_ms, "incident_id": each.incident_id, "open": not each.resolved}
        for each in incidents
        if each.quarantined
    ]


class _Handler(BaseHTTPRequestHandler):
    server: "PageServer"
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """Static files, JSON and reports; everything else is not found."""
        url = urlsplit(self.path)
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in (HOST, "localhost"):
            # Another site's name that was made to point here: its scripts must not read ours.
            self._answer(403, b"ask by the address 127.0.0.1 or localhost\n", "text/plain")
        elif url.path in STATIC:
            name, kind = STATIC[url.path]
            self._answer(200, (FILES / name).read_bytes(), kind, policy=PAGE_POLICY)
        elif url.path.startswith("/api/"):
            self._api(url.path.removeprefix("/api/"), parse_qs(url.query))
        elif url.path.startswith("/reports/"):
            self._report(unquote(url.path.removeprefix("/reports/")))
        else:
            self._answer(404, b"not found\n", "text/plain")

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def _api(self, name: str, query: dict[str, list[str]]) -> None:
        page = self.server.page
        asked = query.get("bucket", ["7"])[0]
        bucket = int(asked) if asked in map(str, BUCKET_DAYS) else 7
        answers: dict[str, Callable[[], Any]] = {
            "health": lambda: {"ok": True},
            "live": page.live,
            "performance": lambda: page.performance(bucket),
            "drift": page.drift,
            "incidents": page.incidents,
        }
        if name not in answers:
            self._json(404, {"problem": f"no endpoint {name}; there are {', '.join(answers)}"})
            return
        status = 200
        try:
            answer = answers[name]()
        except Exception as exc:  # Kafka or ClickHouse is away: the page says so and asks again
            log.info("%s: %r", name, exc)
            status, answer = 503, {"problem": str(exc).splitlines()[0][:300] if str(exc) else repr(exc)}
        self._json(status, answer)

    def _report(self, name: str) -> None:
        file = self.server.page.report(name)
        if file is None:
            self._answer(404, b"no such report (yet)\n", "text/plain")
        else:
            self._answer(200, file.read_bytes(), "text/html; charset=utf-8", policy=REPORT_POLICY)

    def _json(self, status: int, content: Any) -> None:
        body = json.dumps(finite(content), separators=(",", ":"), allow_nan=False).encode()
        self._answer(status, body, "application/json")

    def _answer(self, status: int, body: bytes, kind: str, policy: str = "default-src 'none'") -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class names it so
        """Every request every few seconds is nothing for a log."""
        log.debug(format, *args)


class PageServer(ThreadingHTTPServer):
    """Serves one :class:`Page` on the loopback address; port 0 takes a free one."""

    daemon_threads = True

    def __init__(self, page: Page, port: int) -> None:
        self.page = page
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        log.debug("request from %s broke off", client_address, exc_info=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m compose.page", description="Serve Headwater's page.")
    environ = os.environ
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    for name in ("kafka", "clickhouse", "flink", "home"):
        given = environ.get(f"HEADWATER_{name.upper()}", "")
        parser.add_argument(f"--{name}", default=given, required=not given and name != "flink")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    page = Page(Endpoints(options.kafka, options.clickhouse, options.flink, Path(options.home)))
    server = PageServer(page, options.port)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    log.info("serving http://%s:%d", HOST, server.server_port)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        page.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
