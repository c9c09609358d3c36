"""Whether the schemas are fit to be relied on: what ``headwater schemas check`` says.

The id in front of a record says which bytes follow it, in every region and for all time. So what an id once stood for
is kept here as a fingerprint (``avro/fingerprints.json``), and a schema that no longer has it needs a new id.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fastavro
from fastavro.schema import SchemaParseException, to_parsing_canonical_form

from schemas.topics import AVRO_DIR, TOPICS, Topic

__all__ = ["FINGERPRINTS", "fingerprint", "problems", "write_fingerprints"]

FINGERPRINTS = AVRO_DIR / "fingerprints.json"


def fingerprint(schema: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of a schema's parsing canonical form and its logical types.

    The canonical form of the Avro specification leaves logical types out; here they count, since a long that becomes a
    timestamp is read as something else.
    """
    logical = json.dumps(list(_logical_types(schema)))
    return hashlib.sha256((to_parsing_canonical_form(dict(schema)) + logical).encode()).hexdigest()[:16]


def _logical_types(avro: Any) -> Iterator[str]:
    for each in avro.values() if isinstance(avro, Mapping) else avro if isinstance(avro, list) else ():
        yield from _logical_types(each)
    if isinstance(avro, Mapping) and "logicalType" in avro:
        yield str(avro["logicalType"])


def problems(topics: Mapping[str, Topic] = TOPICS, known: Path = FINGERPRINTS) -> list[str]:
    """What is wrong with the schemas, in words that name the topic, what was expected and what is there."""
    found = [f"schema id {i} is that of {n} topics; each needs its own" for i, n in _ids(topics).items() if n > 1]
    fixed = json.loads(known.read_text()) if known.exists() else {}
    files = {path.stem for path in AVRO_DIR.glob("*.avsc")}
    if strangers := sorted(files - set(topics)):
        found.append(f"no topic in schemas/topics.py for {', '.join(f'{name}.avsc' for name in strangers)}")
    for name, topic in topics.items():
        found += [f"{name}: {each}" for each in _topic_problems(topic, fixed)]
    return found


def _ids(topics: Mapping[str, Topic]) -> Counter[int]:
    return Counter(each.schema_id for each in topics.values())


def _topic_problems(topic: Topic, fixed: Mapping[str, str]) -> Iterator[str]:
    try:
        schema = topic.schema
        fastavro.parse_schema(dict(schema))
    except (OSError, ValueError, SchemaParseException, KeyError) as exc:
        yield f"expected an Avro schema, got {exc!r}"
        return
    fields = {field["name"]: field for field in schema.get("fields", ())}
    if topic.key and topic.key not in fields:
        yield f"expected its key {topic.key!r} among its fields, got {', '.join(fields)}"
    for field in fields.values():
        nullable = isinstance(field["type"], list) and "null" in field["type"]
        if nullable and "default" not in field:
            yield f"field {field['name']!r} is nullable and lacks a default, without which older records cannot be read"
    before, now = fixed.get(str(topic.schema_id)), fingerprint(schema)
    if before is None:
        yield f"schema id {topic.schema_id} is new: `headwater schemas check --accept` fixes it as {now}"
    elif before != now:
        yield (
            f"schema id {topic.schema_id} stands for {before}, the schema is now {now}; records in topics carry the id "
            "and would be misread: give the changed schema a new id"
        )


def write_fingerprints(topics: Mapping[str, Topic] = TOPICS, known: Path = FINGERPRINTS) -> list[int]:
    """Fix the fingerprint of every id that has none; returns those ids. What is fixed stays."""
    fixed = json.loads(known.read_text()) if known.exists() else {}
    new = [each for each in topics.values() if str(each.schema_id) not in fixed]
    fixed |= {str(each.schema_id): fingerprint(each.schema) for each in new}
    known.write_text(json.dumps(fixed, indent=1, sort_keys=True) + "\n")
    return [each.schema_id for each in new]
