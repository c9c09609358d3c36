"""The page's server: what it gives out, to whom, and what it says when nothing is there."""

import http.client
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss as reference_log_loss
from sklearn.metrics import roc_auc_score

from compose.control import first_model, fold, promotions
from compose.live import Rates
from compose.page import STATIC, Endpoints, Page, PageServer, spans
from compose.performance import auc, brief, log_loss
from monitors.dashboard import FILES

START = datetime(2013, 3, 1, tzinfo=UTC)
NOWHERE = "127.0.0.1:9"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    (root / "reports").mkdir()
    (root / "reports" / "abc.html").write_text("<h1>report</h1>")
    (root / "secret.html").write_text("secret")
    return root


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[PageServer]:
    page = Page(Endpoints(NOWHERE, f"http://{NOWHERE}", f"http://{NOWHERE}", home))
    served = PageServer(page, 0)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()
    page.close()


def get(server: PageServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_every_static_file_is_there_and_nothing_comes_from_elsewhere(server: PageServer) -> None:
    for path, (name, kind) in STATIC.items():
        status, headers, body = get(server, path)
        assert (status, headers["Content-Type"]) == (200, kind)
        assert body == (FILES / name).read_bytes()
        text = body.decode().replace("http://www.w3.org/", "")
        assert "http://" not in text
        assert "https://" not in text
    assert "default-src 'self'" in get(server, "/")[1]["Content-Security-Policy"]


def test_it_listens_on_this_machine_alone(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml", "/%2e%2e/pyproject.toml", "/app.js/../../page.py", "/__init__.py",
        "/reports/../secret.html", "/reports/..%2fsecret.html", "/reports/%2e%2e/secret.html",
        "/reports//etc/passwd", "/reports/", "/reports/*.html",
    ],
)  # fmt: skip
def test_nothing_else_can_be_had(server: PageServer, path: str) -> None:
    status, _, body = get(server, path)
    assert status == 404
    assert b"secret" not in body


def test_reports_are_served_apart_from_the_page(server: PageServer) -> None:
    status, headers, body = get(server, "/reports/abc.html")
    assert (status, body) == (200, b"<h1>report</h1>")
    assert headers["Content-Security-Policy"].startswith("sandbox allow-scripts;")


def test_another_sites_name_for_this_machine_is_refused(server: PageServer) -> None:
    assert get(server, "/api/health", Host="evil.example:80")[0] == 403
    assert get(server, "/api/health", Host=f"localhost:{server.server_port}")[0] == 200


def test_head_has_no_body_and_other_methods_are_refused(server: PageServer) -> None:
    status, headers, body = get(server, "/style.css", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0
    assert get(server, "/", "POST")[0] == 501


def test_without_kafka_it_lives_and_says_what_is_wrong(server: PageServer) -> None:
    assert get(server, "/api/health")[0] == 200
    status, _, body = get(server, "/api/live")
    assert status == 503
    assert json.loads(body)["problem"]


def test_an_unknown_endpoint_names_those_there_are(server: PageServer) -> None:
    status, _, body = get(server, "/api/nothing")
    assert status == 404
    assert "performance" in json.loads(body)["problem"]


def test_auc_and_log_loss_are_the_textbooks() -> None:
    rng = np.random.default_rng(3)
    probability = rng.random(5000).round(2)  # with ties
    label = rng.random(5000) < probability
    assert auc(label, probability) == pytest.approx(roc_auc_score(label, probability), abs=1e-12)
    assert log_loss(label, probability) == pytest.approx(reference_log_loss(label, probability.clip(1e-15, 1 - 1e-15)))


def test_measures_of_nothing_are_none() -> None:
    assert brief([], []) == {"auc": None, "logloss": None}
    assert brief([1, 1], None) == {"auc": None, "logloss": None}
    assert auc([1, 1], [0.2, 0.3]) is None
    assert log_loss([1], [1.0]) == pytest.approx(0)


def test_rates_are_over_the_last_samples_and_survive_a_reset() -> None:
    now = iter([0.0, 2.0, 4.0, 6.0])
    rates = Rates(lambda: next(now))
    found = [rates.update({"x": value})["x"] for value in (100, 300, 700, 50)]
    assert found == [None, 100.0, 150.0, None]


def control(**more: Any) -> dict[str, Any]:
    record = {"model": "delay", "uri": "", "watermark": START, "incident_id": None, "action": "promote"}
    return record | {"event_time": START} | more


def test_the_first_model_is_the_first_one_trained() -> None:
    records = {
        "models.control": [
            control(version="prior"),
            control(version="1", uri="m/1"),
            control(version="1", uri="m/1", action="hold", event_time=START + timedelta(days=1)),
            control(version="2", uri="m/2", event_time=START + timedelta(days=9)),
            control(version="2", uri="m/2", event_time=START + timedelta(days=9)),  # told twice
        ]
    }
    assert first_model(records) == ("1", "m/1", 1362096000000)
    assert [each["version"] for each in promotions(records)] == ["1", "2"]
    assert first_model({"models.control": []}) is None


def test_spans_are_those_of_faulty_data() -> None:
    def alert(name: str, cause: str, days: int, status: str = "opened") -> dict[str, Any]:
        return {
            "incident_id": name, "status": status, "severity": "warning", "cause": cause, "model": "delay",
            "model_version": "1", "monitor": "data", "segment": "", "window_start": START,
            "window_end": START + timedelta(days=days), "summary": "", "evidence": [], "report": None,
        }  # fmt: skip

    told = [alert("a", "data", 1), alert("a", "data", 3), alert("b", "world", 2), alert("c", "data", 1),
            alert("c", "data", 5, "resolved"), alert("d", "us", 2)]  # fmt: skip
    found = spans(fold({"drift.alerts": told}))
    assert [(each["incident_id"], each["end_ms"] - each["start_ms"], each["open"]) for each in found] == [
        ("a", 3 * 86_400_000, True),
        ("c", 5 * 86_400_000, False),
        ("d", 2 * 86_400_000, True),
    ]
