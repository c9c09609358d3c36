import hashlib

from monitors.incidents import Evidence, Finding, IncidentBook, Patience, incident_id, window_epoch

DAY = 86_400_000
PATIENCE = Patience(open_after=2, resolve_after=2, epoch_ms=10 * DAY, renew=True)


def fired(*columns: str, severity="warning") -> Finding:
    evidence = tuple(Evidence(column, "psi", 1.0, 0.5, 1.0) for column in columns)
    return Finding(True, severity, "world", "Traffic differs.", evidence)


def judged(book: IncidentBook, findings: list[Finding]) -> list[tuple[int, str]]:
    said = []
    for day, finding in enumerate(findings):
        for alert in book.judge("1", "features", "", (day * DAY, (day + 1) * DAY), finding, PATIENCE):
            said.append((day, alert.status))
    return said


def test_an_id_says_what_the_incident_is_about_and_nothing_else():
    text = '["delay","3","features","carrier=UA",7]'
    assert incident_id("delay", "3", "features", "carrier=UA", 7) == hashlib.sha256(text.encode()).hexdigest()[:32]
    assert incident_id("a", "bc", "", "", 1) != incident_id("ab", "c", "", "", 1)
    assert window_epoch(10 * DAY, 10 * DAY) == 0
    assert window_epoch(10 * DAY + 1, 10 * DAY) == 1


def test_an_incident_opens_once_and_resolves_once():
    book = IncidentBook("delay", "p")
    quiet, unknown = Finding(False), Finding(None)
    sequence = [fired("a"), quiet, fired("a"), fired("a"), fired("a"), quiet, fired("a"), quiet, unknown, quiet, quiet]
    assert judged(book, sequence) == [(3, "opened"), (9, "resolved")]


def test_an_open_incident_speaks_only_of_news():
    book = IncidentBook("delay", "p")
    news = [fired("a"), fired("a"), fired("a", "b"), fired("b"), fired("a", severity="critical"), fired("b")]
    assert judged(book, news) == [(1, "opened"), (2, "updated"), (4, "updated")]


def test_an_incident_of_a_whole_epoch_gives_way_to_another():
    book = IncidentBook("delay", "p")
    said = judged(book, [fired("a")] * 13)
    assert said == [(1, "opened"), (11, "resolved"), (11, "opened")]


def test_what_returns_within_its_epoch_is_the_same_incident():
    book = IncidentBook("delay", "p")
    opened = []
    for day, finding in enumerate([fired("a"), fired("a"), Finding(False), Finding(False), fired("a"), fired("a")]):
        alerts = book.judge("1", "features", "", (day * DAY, (day + 1) * DAY), finding, PATIENCE)
        opened += [alert.incident_id for alert in alerts if alert.status == "opened"]
    assert len(opened) == 2
    assert len(set(opened)) == 1


def test_state_is_restored():
    book, other = IncidentBook("delay", "p"), IncidentBook("delay", "p")
    assert judged(book, [fired("a"), fired("a"), fired("a", "b")])
    other.restore(book.state())
    assert other.opened == book.opened
    closed = other.close(("features",), (5 * DAY, 6 * DAY), "version 2 answers from here")
    assert [(alert.status, alert.model_version) for alert in closed] == [("resolved", "1")]
    assert "version 2" in closed[0].summary


def test_a_book_is_what_was_said_before():
    quick = Patience()
    findings = [fired("a"), fired("a"), fired("b"), fired("a", "b"), Finding(False), fired("a"), fired("c")]
    known, told, said = IncidentBook("delay", "p"), [], []
    for day, finding in enumerate(findings):
        window = (day * DAY, (day + 1) * DAY)
        expected = known.judge("1", "parity", "", window, finding, quick)
        others = [{**each, "model": "other"} for each in told]
        found = IncidentBook.of_alerts("delay", "p", [*others, *told]).judge("1", "parity", "", window, finding, quick)
        assert found == expected
        told += [each.record() for each in found]
        said += [(day, each.status) for each in found]
    assert said == [(0, "opened"), (2, "updated"), (4, "resolved"), (5, "opened"), (6, "updated")]
