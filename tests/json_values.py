"""JSON texts of every type, what each is or why it is none: for the archive's decoder and the stream's."""

import json
import random
import string
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from features.compiler.json_records import record_schema

__all__ = ["COLUMNS", "GOOD", "REFUSED", "SCHEMA", "WHOLE", "everything", "mutilate"]

COLUMNS = {
    "flag": "boolean",
    "small": "int",
    "large": "bigint",
    "single": "float",
    "precise": "double",
    "label": "string",
    "raw": "binary",
    "day": "date",
    "at": "timestamp",
    "wall": "timestamp_ntz",
    "price": "decimal(12, 2)",
    "wide": "decimal(38, 10)",
    "items": "array<bigint>",
    "inner": "struct<x: double, deeper: struct<note: string, seen: timestamp>>",
    "lines": "array<struct<sku: string, pieces: int>>",
}
SCHEMA = record_schema(", ".join(f"{name} {kind}" for name, kind in COLUMNS.items()))
NOON = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
DECIMAL = "a decimal of at most 12 digits, 2 of them behind the point"
TIME, NUMBER = "a time like", "a time in seconds, milliseconds, microseconds or nanoseconds since 1970"
# Column, its JSON, and what that is.
GOOD: list[tuple[str, str, Any]] = [
    *[(name, "null", None) for name in COLUMNS],
    ("flag", "true", True),
    ("small", "-2147483648", -(2**31)),
    ("small", "5.0", 5),
    ("small", "2e3", 2000),
    ("small", "-0", 0),
    ("large", "9223372036854775807", 2**63 - 1),
    ("large", "-9223372036854775808", -(2**63)),
    ("large", "9007199254740991.0", 2**53 - 1),
    ("single", "3.4028234e38", 3.4028234663852886e38),
    ("single", "1", 1.0),
    ("precise", "0.1", 0.1),
    ("precise", "-1E-5", -1e-5),
    ("precise", "1e-400", 0.0),
    ("precise", "123456789012345678901234567890", 123456789012345678901234567890.0),
    ("label", '""', ""),
    ("label", '"na\\u00efve \\ud83d\\udee9 ✈\\n\\u0000"', "naïve 🛩 ✈\n\0"),
    ("label", '"NaN and Infinity"', "NaN and Infinity"),
    ("raw", '"AAH/"', b"\0\1\xff"),
    ("raw", '"AAE="', b"\0\1"),
    ("raw", '""', b""),
    ("day", '"2024-02-29"', date(2024, 2, 29)),
    ("day", '"0001-01-01"', date(1, 1, 1)),
    ("at", '"2024-02-29T12:00:00Z"', NOON),
    ("at", '"2024-02-29 12:00:00"', NOON),
    ("at", '"2024-02-29t12:00z"', NOON),
    ("at", '"2024-02-29"', NOON.replace(hour=0)),
    ("at", '"2024-02-29T13:30:00.5+01:30"', NOON.replace(microsecond=500_000)),
    ("at", '"2024-02-29T07:00:00.123456789-0500"', NOON.replace(microsecond=123_456)),
    ("at", '"2024-02-29 14:00:00+02"', NOON),
    ("at", "1709208000", NOON),
    ("at", "1709208000.25", NOON.replace(microsecond=250_000)),
    ("at", "1709208000000", NOON),
    ("at", "1709208000000.5", NOON.replace(microsecond=500)),
    ("at", "1709208000123456", NOON.replace(microsecond=123_456)),
    ("at", "1709208000123456789", NOON.replace(microsecond=123_456)),
    ("at", "946684800", datetime(2000, 1, 1, tzinfo=UTC)),
    ("at", "4102444799999", datetime(2099, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
    ("at", '"0001-01-01T00:00:00Z"', datetime(1, 1, 1, tzinfo=UTC)),
    ("at", '"9999-12-31T23:59:59.999999Z"', datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ("wall", '"2024-02-29T12:00:00.000001"', NOON.replace(microsecond=1)),
    ("price", "0.1", Decimal("0.10")),
    ("price", '"-9999999999.99"', Decimal("-9999999999.99")),
    ("price", "1e2", Decimal("100.00")),
    ("price", "1.500", Decimal("1.50")),
    ("price", '"+.5"', Decimal("0.50")),
    ("price", "0e999", Decimal("0.00")),
    ("wide", "1234567890123456789012345678.0123456789", Decimal("1234567890123456789012345678.0123456789")),
    ("items", "[]", []),
    ("items", "[1, null, -3]", [1, None, -3]),
    ("inner", "{}", {"x": None, "deeper": None}),
    ("inner", '{"deeper": {"seen": 1709208000, "new": [1]}}',
     {"x": None, "deeper": {"note": None, "seen": NOON}}),
    ("lines", '[{"sku": "a"}, null, {"pieces": 2, "x": {}}]',
     [{"sku": "a", "pieces": None}, None, {"sku": None, "pieces": 2}]),
]  # fmt: skip
# Column, its JSON, what was expected, and what came.
REFUSED: list[tuple[str, str, str, str]] = [
    ("flag", "1", "a boolean", "the number 1"),
    ("flag", '"true"', "a boolean", 'the string "true"'),
    ("small", "2147483648", "an integer of 32 bits", "the number 2147483648"),
    ("small", "1.5", "an integer of 32 bits", "the number 1.5"),
    ("small", '"5"', "an integer of 32 bits", 'the string "5"'),
    ("small", "true", "an integer of 32 bits", "true"),
    ("large", "9223372036854775808", "an integer of 64 bits", "the number 9223372036854775808"),
    ("large", "9007199254740992.0", "an integer of 64 bits", "the number 9007199254740992.0"),
    ("large", "1e19", "an integer of 64 bits", "the number 1e19"),
    ("large", "7" * 5000, "an integer of 64 bits", "the number 777"),
    ("single", "3.5e38", "a float", "the number 3.5e38"),
    ("precise", "1e400", "a double", "the number 1e400"),
    ("precise", '"NaN"', "a double", 'the string "NaN"'),
    ("precise", "{}", "a double", "an object"),
    ("label", "5", "a string", "the number 5"),
    ("label", "{}", "a string", "an object"),
    ("label", '"\\ud83d"', "text in UTF-8", "half of a character, \\ud83d"),
    ("label", '"\\udee9\\ud83d"', "text in UTF-8", "half of a character, \\udee9"),
    ("raw", '"AAE"', "a string in base64", 'the string "AAE"'),
    ("raw", '"A-_="', "a string in base64", 'the string "A-_="'),
    ("day", '"2023-02-29"', "a date like", 'the string "2023-02-29"'),
    ("day", '"2024-02-29T00:00:00"', "a date like", "the string"),
    ("day", '"0000-01-01"', "a date like", "the string"),
    ("day", "19782", "a date like", "the number 19782"),
    ("at", '"yesterday"', TIME, 'the string "yesterday"'),
    ("at", '"1709208000"', TIME, "the string"),
    ("at", '"2024-02-29T24:00:00"', TIME, "the string"),
    ("at", '"2024-02-29T12:60:00"', TIME, "the string"),
    ("at", '"2024-02-29T12:00:60"', TIME, "the string"),
    ("at", '"2024-02-30T12:00:00"', TIME, "the string"),
    ("at", '"2024-02-29T12"', TIME, "the string"),
    ("at", '"2024-02-29Z"', TIME, "the string"),
    ("at", '"2024-02-29:30"', TIME, "the string"),
    ("at", '"2024-02-29T12:00:00.Z"', TIME, "the string"),
    ("at", '"2024-02-29T12:00:00.1234567890"', TIME, "the string"),
    ("at", '"2024-02-29T12:00:00+24:00"', TIME, "the string"),
    ("at", '"2024-02-29T12:00:00 CET"', TIME, "the string"),
    ("at", '"0001-01-01T00:00:00+01:00"', TIME, "the string"),
    ("at", '"9999-12-31T23:00:00-01:00"', TIME, "the string"),
    ("at", '"24-02-29T12:00:00"', TIME, "the string"),
    ("at", "0", NUMBER, "the number 0"),
    ("at", "946684799", NUMBER, "the number 946684799"),
    ("at", "4102444800", NUMBER, "the number 4102444800"),
    ("at", "17092080000", NUMBER, "the number 17092080000"),
    ("at", "1e300", NUMBER, "the number 1e300"),
    ("at", "9" * 30, NUMBER, "the number 999"),
    ("at", "true", TIME, "true"),
    ("wall", "[]", TIME, "an array"),
    ("price", "0.125", DECIMAL, "the number 0.125"),
    ("price", "10000000000", DECIMAL, "the number 10000000000"),
    ("price", "1e999999999", DECIMAL, "the number 1e999999999"),
    ("price", '"1,5"', DECIMAL, 'the string "1,5"'),
    ("price", '""', DECIMAL, 'the string ""'),
    ("price", "false", DECIMAL, "false"),
    ("items", "{}", "an array", "an object"),
    ("items", '"1"', "an array", 'the string "1"'),
    ("inner", "[]", "an object", "an array"),
]
# Whole records, the field that is named, and what is said.
WHOLE: list[tuple[bytes, str, str]] = [
    (b"", "", "an empty record"),
    (b"  ", "", "an empty record"),
    (b"null", "", "expected an object"),
    (b"[]", "", "expected an object"),
    (b'"{}"', "", "expected an object"),
    (b"{", "", "expected JSON"),
    (b'{"label": "x"', "label", "expected JSON"),
    (b'{"label": "x', "label", "expected JSON"),
    (b'{"label": "x"}}', "", "expected"),
    (b'{"label": "x"} {}', "", "expected"),
    (b"{'label': 1}", "", "expected JSON"),
    (b'{"label": "x",}', "label", "expected JSON"),
    (b'{"small": 01}', "small", "expected JSON"),
    (b'{"small": +1}', "small", "expected JSON"),
    (b'{"precise": NaN}', "precise", "expected JSON"),
    (b'{"precise": -Infinity}', "precise", "expected JSON"),
    (b'{"unknown": NaN}', "unknown", "expected JSON"),
    (b'{"unknown": "a\tb"}', "unknown", "expected JSON"),
    (b'{"unknown": "\\x"}', "unknown", "expected JSON"),
    (b'{"small": 1 /* one */}', "small", "expected JSON"),
    (b'\xef\xbb\xbf{"small": 1}', "", "expected JSON"),
    ('{"small": 1}'.encode("utf-16-le"), "", "expected"),
    ('{"small": 1}'.encode("utf-32-be"), "", "expected"),
    (b'{"label": "caf\xe9"}', "label", "expected text in UTF-8 at byte 14"),
    (b'{"unknown": "\xed\xa0\x80"}', "unknown", "expected text in UTF-8"),
    (b'{"small": 1, "small": 1}', "small", "expected the field once, got it twice"),
    (b'{"small": null, "sm\\u0061ll": 1}', "small", "expected the field once, got it twice"),
    (b'{"inner": {"deeper": {"note": 1}}}', "inner.deeper.note", "expected a string, got the number 1"),
    (b'{"lines": [{}, {"pieces": "x"}]}', "lines[1].pieces", "expected an integer of 32 bits"),
    (b'{"items": [1, [2]]}', "items[1]", "expected an integer of 64 bits, got an array"),
    (b'{"inner": {"x": 1, "x": 2}}', "inner.x", "expected the field once"),
    (b'{"unknown": ' + b"[" * 400 + b"]" * 400 + b"}", "", "expected"),
]
# And what is good although it may not look so.
WHOLE_GOOD: list[tuple[bytes, dict[str, Any]]] = [
    (b"{}", {}),
    (b'\r\n\t {"small"\n:\t1 }\n', {"small": 1}),
    (b'\0\0\0\0\7{"small": 1}', {"small": 1}),
    (b'{"unknown": 1, "unknown": {"small": 2}, "small": 1}', {"small": 1}),
    (b'{"unknown": "\\ud83d", "Small": "x", "small": 1}', {"small": 1}),
    (b'{"unknown": 1e999999, "also": ' + b"1" * 3000 + b', "small": 1}', {"small": 1}),
    (b'{"unknown": ' + b"[" * 399 + b"]" * 399 + b', "small": 1}', {"small": 1}),
    (b'{"items": [' + b"1, " * 5000 + b'1], "small": 1}', {"small": 1, "items": [1] * 5001}),
]


def everything(rng: random.Random, of_times: str) -> dict[str, Any]:
    """A record of :data:`SCHEMA` for :func:`json.dumps`; its times are all ``text``, or all ``seconds`` and so on."""

    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.2 else value

    def time() -> Any:
        second = rng.randrange(946_684_800, 4_102_444_800)
        micros = rng.randrange(10**6)
        if of_times == "text":
            at = datetime.fromtimestamp(second, UTC).replace(microsecond=micros)
            zone = rng.choice(["", "Z", "+00:00", "-07:30"])
            return at.isoformat(rng.choice("T "), "auto").removesuffix("+00:00") + zone
        per_second = {"seconds": 1, "millis": 10**3, "micros": 10**6, "nanos": 10**9, "floats": 1}[of_times]
        number = second * per_second + micros * per_second // 10**6
        return number + rng.random() if of_times == "floats" else number

    text = "".join(rng.choice(string.printable + "é✈🛩\0") for _ in range(rng.choice([0, 1, 7, 40])))
    record = {
        "flag": rng.random() < 0.5,
        "small": rng.choice([0, -1, 2**31 - 1, -(2**31), rng.randrange(-(2**31), 2**31)]),
        "large": rng.choice([2**63 - 1, -(2**63), 2**53, rng.randrange(-(2**63), 2**63)]),
        "single": rng.choice([0.0, 3.4e38, rng.gauss(0, 1), rng.gauss(0, 1e9)]),
        "precise": rng.choice([0.0, -0.0, 5e-324, 1.7e308, rng.gauss(0, 1), rng.randrange(10**12)]),
        "label": text,
        "raw": rng.choice(["", "AAE=", "AAH/", "QUJD"]),
        "day": date.fromordinal(rng.randrange(1, 3_652_059)).isoformat(),
        "at": time(),
        "wall": time(),
        "price": rng.choice([rng.randrange(10**10), rng.randrange(10**10) / 100, f"{rng.randrange(10**9)}.5"]),
        "wide": rng.randrange(10**17),
        "items": [maybe(rng.randrange(-(2**40), 2**40)) for _ in range(rng.randrange(4))],
        "inner": {"x": maybe(rng.random()), "deeper": maybe({"note": maybe(text), "seen": maybe(time()), "more": 1})},
        "lines": [maybe({"sku": maybe(text), "pieces": maybe(rng.randrange(9))}) for _ in range(rng.randrange(3))],
        "unknown": rng.choice([1, text, [], {"a": [None]}]),
    }
    left = {name: maybe(value) for name, value in record.items() if rng.random() < 0.9}
    return dict(rng.sample(sorted(left.items()), len(left)))


def mutilate(rng: random.Random, record: dict[str, Any]) -> bytes:
    """Two thirds of the records as they are; of the others some bytes changed, cut out or doubled, or the end cut."""
    whole = json.dumps(record, ensure_ascii=rng.random() < 0.5).encode()
    if rng.random() < 2 / 3:
        return whole
    at, length = rng.randrange(len(whole)), rng.choice([1, 1, 2, 9])
    head, middle, tail = whole[:at], whole[at : at + length], whole[at + length :]
    other = bytes(rng.choice(b'0123456789.eE+-{}[]",:tZ \\\xff') for _ in middle)
    return rng.choice([head + other + tail, head + tail, head + middle + middle + tail, head])
