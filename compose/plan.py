"""What a submission of a Feast repo's views would change, against what its job was last submitted with.

A changed job goes on from its last state, and each view in it goes on or begins, see :mod:`jobs.generations`:

- A view whose rows are what they were goes on: with its windows, from the offsets where its source stood.
- A view that is new, or whose rows are others now, begins at the start of its topic, with nothing. So its topic holds
  rows as they would be had it always been what it is, behind those of its old definition.
- The state of a view that is gone is left behind.

What became of the windows of a changed view that went on was tried on a real job (Flink 2.3): they are found by their
``uid``, whatever has become of the view's keys, hop and features, and are then misread. With one feature less the job
died of a ClassCastException at its first record, with another hop of an ArrayIndexOutOfBoundsException; with another
function or window it ran on. A feature's type is a cast behind its windows, but rows of two schemas in one topic are
of no use to its readers.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from feast import StreamFeatureView

from compose.local.home import Home, write_text
from compose.projects import definitions_file
from features.compiler.changes import changelog
from features.compiler.definition import ANY, definition
from features.compiler.flink import compile_view, events_table
from features.compiler.function_text import text_of
from features.compiler.sources import avro_schema, encoding, row_schema, schema_id, stream_source, watermark_delay_ms
from features.compiler.topics import feature_topic, join_key_fields, value_fields
from features.compiler.transformations import transformed
from jobs.generations import Begun, Letters

__all__ = ["Facts", "Plan", "Recorded", "ViewPlan", "facts_of", "fingerprint", "plan", "record", "recorded"]

Facts = Mapping[str, Any]
Kind = Literal["new", "changed", "removed", "unchanged"]
State = Literal["kept", "begins", "removed"]


@dataclass(frozen=True)
class Recorded:
    """What a job was submitted with.

    Attributes
    ----------
    at : str
        When, ISO 8601, UTC.
    id : str
        What the cluster called the job.
    views : mapping of str to Facts
        In the job's order.
    begun : mapping of str to Begun
        By view.
    letters : mapping of str to Letters
        By source.
    """

    at: str
    id: str
    views: Mapping[str, Facts]
    begun: Mapping[str, Begun]
    letters: Mapping[str, Letters]


@dataclass(frozen=True)
class ViewPlan:
    """What becomes of one view.

    Attributes
    ----------
    name : str
    kind : {"new", "changed", "removed", "unchanged"}
    changes : tuple of str
        Each begins with ``+``, ``-`` or ``~``.
    state : {"kept", "begins", "removed"}
        Whether it goes on from the job's last state, starts from the beginning of its topic, or is gone.
    why : str
        Why it starts from the beginning.
    backfill : tuple of str
        Why rows of before its topic's first record are not what the view now means.
    schema_ids : tuple of int
        Of ``features.<view>``, then and now, where they differ.
    restarts : bool
        Whether the job has to do otherwise.
    """

    name: str
    kind: Kind
    changes: tuple[str, ...]
    state: State
    why: str
    backfill: tuple[str, ...]
    schema_ids: tuple[int, ...]
    restarts: bool


@dataclass(frozen=True)
class Plan:
    """What a submission would change.

    Attributes
    ----------
    job : str
    since : str
        When what it is compared with was submitted; empty where nothing is recorded.
    running : bool
    views : tuple of ViewPlan
        By name.
    topics : tuple of str
        That would be created, each with its ``.dlq`` and ``.late``.
    left : tuple of str
        Topics of removed views; they stay, with their rows.
    refused : tuple of str
        Why it cannot be submitted.
    """

    job: str
    since: str
    running: bool
    views: tuple[ViewPlan, ...]
    topics: tuple[str, ...]
    left: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def changed(self) -> tuple[ViewPlan, ...]:
        """The views that are not what they were."""
        return tuple(each for each in self.views if each.kind != "unchanged")

    @property
    def begins(self) -> frozenset[str]:
        """The views that start from the beginning of their topics."""
        return frozenset(each.name for each in self.views if each.state == "begins")

    @property
    def restarts(self) -> bool:
        """Whether the job has to be stopped, if it runs, and submitted."""
        return not self.running or any(each.restarts for each in self.views)

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return self.running and not self.changed and not self.topics


def facts_of(views: Iterable[StreamFeatureView]) -> dict[str, Facts]:
    """What a plan has to know of views, as plain data, in their order.

    Raises
    ------
    UnsupportedViewError
        Where a view cannot be run.
    """
    return {view.name: _facts(view) for view in views}


def fingerprint(facts: object) -> str:
    """Twelve digits that differ where the facts do."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def record(
    home: Home,
    job: str,
    job_id: str,
    views: Mapping[str, Facts],
    begun: Mapping[str, Begun],
    letters: Mapping[str, Letters],
) -> None:
    """Remember what a job was submitted with."""
    file = definitions_file(home, job)
    file.parent.mkdir(parents=True, exist_ok=True)
    marked = {name: {**facts, "fingerprint": fingerprint(facts)} for name, facts in views.items()}
    at = datetime.now(UTC).isoformat(timespec="seconds")
    generations = {
        "begun": {name: asdict(each) for name, each in begun.items()},
        "letters": {name: asdict(each) for name, each in letters.items()},
    }
    write_text(file, json.dumps({"at": at, "id": job_id, "definition": marked, **generations}))


def recorded(home: Home, job: str) -> Recorded | None:
    """What :func:`record` remembers; None where the job was never submitted, or by a version that did not record it."""
    if not (file := definitions_file(home, job)).exists():
        return None
    found = json.loads(file.read_text())
    if "begun" not in found:
        return None
    views = {
        name: {key: value for key, value in facts.items() if key != "fingerprint"}
        for name, facts in found["definition"].items()
    }
    begun = {name: Begun(**each) for name, each in found["begun"].items()}
    letters = {name: Letters(**each) for name, each in found["letters"].items()}
    return Recorded(found["at"], found["id"], views, begun, letters)


def plan(
    job: str,
    before: Recorded | None,
    views: Mapping[str, Facts],
    running: bool = True,
    topics: Iterable[str] = (),
) -> Plan:
    """What submitting views as a job would change.

    Parameters
    ----------
    job : str
    before : Recorded or None
    views : mapping of str to Facts
        See :func:`facts_of`; in the repo's order.
    running : bool
    topics : iterable of str
        That exist.
    """
    old = before.views if before else {}
    found = [_view_plan(name, old.get(name), views.get(name)) for name in sorted({*old, *views})]
    there = set(topics)
    wanted = dict.fromkeys(name for each in views.values() for name in (each["topic"], f"features.{each['name']}"))
    return Plan(
        job=job,
        since=before.at if before else "",
        running=running,
        views=tuple(found),
        topics=tuple(name for name in wanted if name not in there),
        left=tuple(f"features.{each.name}" for each in found if each.kind == "removed"),
        refused=tuple(line for name in sorted(old.keys() & views.keys()) for line in _retyped(old[name], views[name])),
    )


def _facts(view: StreamFeatureView) -> Facts:
    meaning, source, compiled = definition(view), stream_source(view), compile_view(view)
    schema, row, written = avro_schema(source), row_schema(source), encoding(source)
    read = sorted({each.column for each in meaning.features} - {ANY} | {*meaning.latest, *meaning.keys})
    mapping = dict(source.field_mapping or {})
    paths = {name: column for column, name in mapping.items()}
    function = compiled.function
    return {
        "name": view.name,
        "source": source.name,
        "topic": source.kafka_options.topic,
        "schema": [schema_id(source), fingerprint(schema if written == "avro" else [written, schema])],
        "time": source.timestamp_field,
        **({"changelog": changelog(source)} if changelog(source) else {}),
        "delay_ms": watermark_delay_ms(source),
        "mapping": mapping,
        "transformation": text_of(function.function)
        if function
        else transformed(view, events_table(source.name)) or "",
        "keys": {field.name: str(field.dtype) for field in join_key_fields(view)},
        "values": {field.name: str(field.dtype) for field in value_fields(view)},
        "columns": {
            name: str(function.outputs[name]) if function else _avro_at(row, paths.get(name, name)) for name in read
        },
        "windows": {
            each.name: [each.function, each.column, each.window_ms, each.slide_ms] for each in meaning.features
        },
        "hop_ms": meaning.hop_ms,
        "ttl_s": int(view.ttl.total_seconds()) if view.ttl else 0,
        "schema_id": feature_topic(view).schema_id,
        "sql": fingerprint([compiled.views, compiled.select]),
        **({"pandas": [each.name for each in function.columns]} if function else {}),
    }


def _avro_at(avro: Any, path: str) -> Any:
    """The type of a field of a record, or of one in it; null where a transformation makes the column."""
    name, _, rest = path.partition(".")
    if isinstance(avro, list):
        avro = next((each for each in avro if each != "null"), None)
    fields = avro.get("fields", []) if isinstance(avro, dict) else []
    kind = next((each["type"] for each in fields if each["name"] == name), None)
    return _avro_at(kind, rest) if rest else kind


def _view_plan(name: str, old: Facts | None, new: Facts | None) -> ViewPlan:
    if new is None:
        return ViewPlan(name, "removed", (), "removed", "", (), (), True)
    if old is None:
        lines = (*(f"+ {each}" for each in _shown(new)), *_listed("+ transformation:", new["transformation"]))
        return ViewPlan(name, "new", lines, "begins", "it is new", ("it is new",), (), True)
    if fingerprint(old) == fingerprint(new):
        return ViewPlan(name, "unchanged", (), "kept", "", (), (), False)
    ids = (old["schema_id"], new["schema_id"]) if old["schema_id"] != new["schema_id"] else ()
    restarts = any(old.get(key) != new.get(key) for key in old.keys() | new.keys() if key != "ttl_s")
    # Nothing else can be said where only the SQL differs.
    lines = tuple(_changes(old, new)) or ("~ the same definition, compiled otherwise by this version of Headwater",)
    why = _why_begins(old, new)
    return ViewPlan(name, "changed", lines, "begins" if why else "kept", why, tuple(_backfill(old, new)), ids, restarts)


def _shown(facts: Facts) -> list[str]:
    keys = ", ".join(facts["keys"])
    windows = [f"{name}: {_feature(each)}" for name, each in facts["windows"].items()]
    return [f"by {keys}, of {facts['topic']}", *(windows or [f"{name}: the newest" for name in facts["values"]])]


def _feature(feature: list[Any]) -> str:
    function, column, window_ms, slide_ms = feature
    every = f", every {_span(slide_ms)}" if slide_ms != window_ms else ""
    return f"{function}({column or '*'}) over {_span(window_ms)}{every}"


def _changes(old: Facts, new: Facts) -> Iterable[str]:
    """What is different, a line each."""
    if old["keys"] != new["keys"]:
        yield f"~ keys: {_typed(old['keys'])} -> {_typed(new['keys'])}"
    for name in sorted({*old["values"], *new["values"]}):
        was, now = ([_value(each, name)] if name in each["values"] else [] for each in (old, new))
        if was and now and was != now:
            yield f"~ {name}: {was[0]} -> {now[0]}"
        elif was != now:
            yield f"+ {name}: {now[0]}" if now else f"- {name}: {was[0]}"
    for key, what in (("source", "source"), ("topic", "topic"), ("time", "event time"), ("mapping", "field mapping")):
        if old[key] != new[key]:
            yield f"~ {what}: {old[key] or 'none'} -> {new[key] or 'none'}"
    if old.get("changelog") != new.get("changelog"):
        yield f"~ changelog: {old.get('changelog') or 'none'} -> {new.get('changelog') or 'none'}"
    for key, what in (("hop_ms", "tiles of"), ("delay_ms", "records may be late by")):
        if old[key] != new[key]:
            yield f"~ {what}: {_span(old[key])} -> {_span(new[key])}"
    if old["schema"] != new["schema"]:
        yield f"~ schema of {new['topic']}: {old['schema'][1]} -> {new['schema'][1]}"
    if old["transformation"] != new["transformation"]:
        yield from _listed("- transformation:", old["transformation"])
        yield from _listed("+ transformation:", new["transformation"])
    elif old.get("pandas") != new.get("pandas"):
        yield f"~ columns that its function gets: {', '.join(old['pandas'])} -> {', '.join(new['pandas'])}"
    if old["ttl_s"] != new["ttl_s"]:
        yield f"~ ttl: {_span(old['ttl_s'] * 1000)} -> {_span(new['ttl_s'] * 1000)}"


def _value(facts: Facts, name: str) -> str:
    kind = facts["values"][name]
    return f"{_feature(facts['windows'][name])}, {kind}" if name in facts["windows"] else f"the newest, {kind}"


def _why_begins(old: Facts, new: Facts) -> str:
    """Why a changed view cannot go on from what there is of it; empty where it can."""
    if (old["source"], old["topic"]) != (new["source"], new["topic"]):
        return f"it reads {new['topic']} by {new['source']}, and not {old['topic']} by {old['source']}"
    if old.get("changelog") != new.get("changelog"):
        return "it takes the records of its topic otherwise"
    if new.get("changelog") and old["schema"] != new["schema"]:
        return "the rows that may be taken back are kept whole, and would be misread"
    if old["windows"] and new["windows"]:
        if any(old[key] != new[key] for key in ("keys", "hop_ms", "windows", "columns")):
            return "its windows are kept in another form, and would be misread"
        made = [name for name, kind in new["columns"].items() if kind is None]
        if made and old["schema"] != new["schema"]:
            return f"{', '.join(made)}, which its transformation makes, may be of another type now"
        if any(old[key] != new[key] for key in ("time", "mapping", "transformation")):
            return "its windows hold records as they were before the change"
    if any(old[key] != new[key] for key in ("keys", "values", "windows", "time", "mapping", "transformation")):
        return "its rows are others now"
    return ""


def _retyped(old: Facts, new: Facts) -> Iterable[str]:
    """Fields that are of another type now: their columns in the archive cannot hold it, and it would stand still."""
    for which in ("keys", "values"):
        for name in sorted(old[which].keys() & new[which].keys()):
            was, now = old[which][name], new[which][name]
            if was != now:
                yield (
                    f"view {new['name']!r}: expected {name!r} to be {was}, as in the rows that are there, got {now}; "
                    "give it, or the view, another name"
                )


def _backfill(old: Facts, new: Facts) -> Iterable[str]:
    """Why rows that are stored already are others than the view would have now."""
    if old["keys"] != new["keys"]:
        yield "other keys"
    if bool(old["windows"]) != bool(new["windows"]):
        yield "windows instead of the newest" if new["windows"] else "the newest instead of windows"
    for key, what in (("transformation", "transformation"), ("mapping", "field mapping"), ("time", "event time")):
        if old[key] != new[key]:
            yield f"changed {what}"
    if old["topic"] != new["topic"]:
        yield "another topic"
    there = old["windows"].keys() & new["windows"].keys()
    wider = sorted(name for name in there if new["windows"][name][2] > old["windows"][name][2])
    if wider:
        yield f"wider windows: {', '.join(wider)}"
    other = {name for name in there if old["windows"][name] != new["windows"][name]}
    if others := sorted(other.difference(wider)):
        yield f"changed features: {', '.join(others)}"
    if added := sorted(new["values"].keys() - old["values"].keys()):
        yield f"new features: {', '.join(added)}"
    if old["hop_ms"] != new["hop_ms"] and not (wider or others or added):
        yield "rows at other times"


def _typed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())


def _listed(heading: str, text: str) -> list[str]:
    return [heading, *(f"  {heading[0]} {line}" for line in text.strip().splitlines())] if text else []


def _span(span_ms: int) -> str:
    for unit, unit_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if span_ms and span_ms % unit_ms == 0:
            return f"{span_ms // unit_ms} {unit}"
    return f"{span_ms} ms" if span_ms else "none"
