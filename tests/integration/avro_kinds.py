"""Records of every Avro type that SQL has a type for, generated with their edge cases."""

import random
import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from jobs.tables import sql_type
from schemas.codec import Codec

__all__ = ["CODEC", "COLUMNS", "ID", "KINDS", "SAMPLE", "SCHEMA", "T0_MS", "TS_MILLIS", "at", "everything", "mutilate"]

T0_MS = 1_357_000_000_000
ID = 7
TS_MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
INNER = {
    "type": "record",
    "name": "Inner",
    "fields": [{"name": "x", "type": "double"}, {"name": "note", "type": ["null", "string"]}],
}
# Every Avro type that SQL has a type for, each also nullable, with null before or behind.
KINDS: dict[str, Any] = {
    "boolean": "boolean",
    "int": "int",
    "long": "long",
    "float": "float",
    "double": "double",
    "string": "string",
    "bytes": "bytes",
    "fixed": {"type": "fixed", "name": "Four", "size": 4},
    "enum": {"type": "enum", "name": "Colour", "symbols": ["red", "green", "blue"]},
    "millis": TS_MILLIS,
    "micros": {"type": "long", "logicalType": "timestamp-micros"},
    "date": {"type": "int", "logicalType": "date"},
    "decimal": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 3},
    "fixed_decimal": {"type": "fixed", "name": "Six", "size": 6, "logicalType": "decimal", "precision": 12, "scale": 2},
    "array": {"type": "array", "items": ["null", "long"]},
    "map": {"type": "map", "values": "double"},
    "record": INNER,
    "records": {"type": "array", "items": {"type": "map", "values": ["string", "null"]}},
}


def _reference(avro: Any) -> Any:
    """A named type is defined once and then called by name."""
    return avro["name"] if isinstance(avro, dict) and "name" in avro else avro


SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Everything",
    "namespace": "test",
    "fields": [
        *({"name": f"a_{kind}", "type": avro} for kind, avro in KINDS.items()),
        *({"name": f"b_{kind}", "type": ["null", _reference(avro)]} for kind, avro in KINDS.items()),
        *({"name": f"c_{kind}", "type": [_reference(avro), "null"]} for kind, avro in KINDS.items()),
    ],
}
CODEC = Codec(SCHEMA, ID)
COLUMNS = ", ".join(f"{side}_{kind} {sql_type(avro)}" for side in "abc" for kind, avro in KINDS.items())
SAMPLE: dict[str, Any] = {
    "boolean": True,
    "int": -(2**31),
    "long": 2**63 - 1,
    "float": 0.25,
    "double": -1.5e10,
    "string": "naïve ✈",
    "bytes": b"\0\xff",
    "fixed": b"\1\2\3\4",
    "enum": "green",
    "millis": datetime(2013, 3, 10, 2, 30, 0, 123_000, UTC),
    "micros": datetime(1913, 1, 1, 0, 0, 0, 1, UTC),
    "date": date(2013, 2, 28),
    "decimal": Decimal("12345678901234567.890"),
    "fixed_decimal": Decimal("-0.05"),
    "array": [1, None, -3],
    "map": {"k": 0.5},
    "record": {"x": 2.5, "note": None},
    "records": [{}, {"a": "x", "b": None}],
}


def at(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms // 1000, UTC) + timedelta(milliseconds=epoch_ms % 1000)


def everything(rng: random.Random) -> dict[str, Any]:
    """A record of :data:`SCHEMA`, edge cases included."""
    record = {f"a_{kind}": value(rng, kind) for kind in KINDS}
    for side in "bc":
        record |= {f"{side}_{kind}": None if rng.random() < 0.3 else value(rng, kind) for kind in KINDS}
    return record


def value(rng: random.Random, kind: str) -> Any:
    small = rng.randrange(4)
    text = "".join(rng.choice("aZ 0\n'\"é✈🛩\0") for _ in range(rng.choice([0, 1, 7, 8, 9, 40])))
    makers: dict[str, Any] = {
        "boolean": lambda: rng.random() < 0.5,
        "int": lambda: rng.choice([0, -1, 63, -64, 64, 2**31 - 1, -(2**31), rng.randrange(-(2**31), 2**31)]),
        "long": lambda: rng.choice([0, -1, 2**63 - 1, -(2**63), rng.randrange(-(2**63), 2**63)]),
        "float": lambda: struct.unpack("<f", struct.pack("<f", rng.choice([0.0, -0.1, 3.4e38, rng.gauss(0, 1e9)])))[0],
        "double": lambda: rng.choice([0.0, -0.0, float("inf"), 5e-324, 1.7e308, rng.gauss(0, 1)]),
        "string": lambda: text,
        "bytes": lambda: rng.randbytes(small * 50),
        "fixed": lambda: rng.randbytes(4),
        "enum": lambda: rng.choice(["red", "green", "blue"]),
        "millis": lambda: at(rng.choice([0, -1, T0_MS, rng.randrange(-(10**13), 10**14)])),
        "micros": lambda: at(rng.randrange(-(10**13), 10**14)) + timedelta(microseconds=rng.randrange(1000)),
        "date": lambda: date(1, 1, 1) + timedelta(days=rng.randrange(3_650_000)),
        "decimal": lambda: Decimal(rng.randrange(-(10**20) + 1, 10 ** rng.randrange(1, 21))).scaleb(-3),
        "fixed_decimal": lambda: Decimal(rng.randrange(-(10**12) + 1, 10**12)).scaleb(-2),
        "array": lambda: [rng.choice([None, rng.randrange(-(2**40), 2**40)]) for _ in range(small * 30)],
        "map": lambda: {f"{text}{each}": rng.random() for each in range(small)},
        "record": lambda: {"x": rng.random(), "note": rng.choice([None, text])},
        "records": lambda: [{f"{text}{each}": rng.choice([None, text])} for each in range(small)],
    }
    return makers[kind]()


def mutilate(rng: random.Random, record: bytes) -> bytes:
    """Half of the records as they are; of the others a few bytes changed, cut out, doubled, or the end cut off."""
    if rng.random() < 0.5:
        return record
    at_byte, length = rng.randrange(len(record)), rng.choice([1, 1, 2, 9])
    head, middle, tail = record[:at_byte], record[at_byte : at_byte + length], record[at_byte + length :]
    return rng.choice([head + rng.randbytes(len(middle)) + tail, head + tail, head + middle + middle + tail, head])
