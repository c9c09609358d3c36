"""A schema that changes under its id is found; what is committed is in order."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest

from schemas.check import FINGERPRINTS, fingerprint, problems, write_fingerprints
from schemas.topics import TOPICS, Topic

REQUESTS = TOPICS["flights.requests"]


def changed(**changes: object) -> dict[str, Topic]:
    """All topics, the requests' schema with some of its parts replaced."""
    schema = copy.deepcopy(REQUESTS.schema) | changes
    return {**TOPICS, REQUESTS.name: dataclasses.replace(REQUESTS, definition=schema)}


def test_what_is_committed_is_in_order() -> None:
    assert problems() == []


def test_a_schema_that_changed_under_its_id_needs_a_new_one(tmp_path: Path) -> None:
    fields = [*REQUESTS.schema["fields"], {"name": "gate", "type": ["null", "string"], "default": None}]
    (found,) = problems(changed(fields=fields))
    assert "flights.requests: schema id 1 stands for" in found
    assert "give the changed schema a new id" in found


def test_a_logical_type_counts() -> None:
    plain = json.loads(json.dumps(REQUESTS.schema).replace('"timestamp-millis"', '"timestamp-micros"'))
    assert fingerprint(plain) != fingerprint(REQUESTS.schema)


def test_documentation_does_not_count() -> None:
    assert problems(changed(doc="said otherwise")) == []


@pytest.mark.parametrize(
    ("topics", "told"),
    [
        (
            {**TOPICS, "other": dataclasses.replace(REQUESTS, name="other", definition=REQUESTS.schema)},
            "id 1 is that of 2",
        ),
        ({**TOPICS, REQUESTS.name: dataclasses.replace(REQUESTS, key="gate")}, "expected its key 'gate'"),
        (changed(type="enum"), "expected an Avro schema"),
        (changed(fields=[{"name": "flight_id", "type": ["null", "string"]}]), "lacks a default"),
    ],
)
def test_what_is_wrong_is_named(topics: dict[str, Topic], told: str) -> None:
    assert any(told in each for each in problems(topics))


def test_new_ids_are_fixed_once_and_stay(tmp_path: Path) -> None:
    known = tmp_path / "fingerprints.json"
    assert len(write_fingerprints(known=known)) == len(TOPICS)
    # Ids that no topic has any more stay taken.
    assert json.loads(known.read_text()).items() < json.loads(FINGERPRINTS.read_text()).items()
    assert write_fingerprints(changed(fields=[]), known) == []
    assert problems(known=known) == []
