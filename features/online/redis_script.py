"""Rows into Redis hashes by a script that compares and sets in the server, and Redis's errors as ours."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import groupby, islice
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from redis import Redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,  # noqa: A004
    TryAgainError,
)

from features.online.rows import StoreBusyError, StoreError, StoreFullError
from features.online.wire import Cells

__all__ = ["Call", "Life", "Table", "calls", "run", "translated"]

SCRIPT = """
-- KEYS: entities. ARGV: name of the time field, key's life and view's life in ms (0: none), number of features, their
-- fields; then for each entity the time and the features. Returns how many rows were written.
local call, byte = redis.call, string.byte

local function varint(s, i)
  local first, value, scale, b = i, 0, 1, byte(s, i)
  while b >= 128 do
    value, scale, i = value + (b - 128) * scale, scale * 128, i + 1
    b = byte(s, i)
  end
  if i - first < 9 then return value + b * scale, i + 1 end
  value, scale = 1, 1  -- ten bytes: negative, in two's complement
  for k = first, i - 1 do value, scale = value + (127 - byte(s, k) % 128) * scale, scale * 128 end
  return -value, i + 1
end

local function time(s)  -- google.protobuf.Timestamp: 1 seconds, 2 nanos, each left out where it is 0
  local seconds, nanos, i, tag, value = 0, 0, 1
  while i <= #s do
    tag = byte(s, i)
    value, i = varint(s, i + 1)
    if tag == 8 then seconds = value elseif tag == 16 then nanos = value end
  end
  return seconds, nanos
end

local function newer(a, b)
  if a == b then return false end
  -- Seconds from 1978 to 3058 are five bytes behind their tag, the lowest seven bits first.
  local at, a1, a2, a3, a4, a5 = byte(a, 1, 6)
  local bt, b1, b2, b3, b4, b5 = byte(b, 1, 6)
  if at == 8 and bt == 8 and a5 and b5 and a4 > 127 and b4 > 127 and a5 < 128 and b5 < 128
    and a1 > 127 and a2 > 127 and a3 > 127 and b1 > 127 and b2 > 127 and b3 > 127 then
    local left = a1 + a2 * 128 + a3 * 16384 + a4 * 2097152 + a5 * 268435456
    local right = b1 + b2 * 128 + b3 * 16384 + b4 * 2097152 + b5 * 268435456
    if left ~= right then return left > right end
  end
  local a_seconds, a_nanos = time(a)
  local b_seconds, b_nanos = time(b)
  return a_seconds > b_seconds or (a_seconds == b_seconds and a_nanos > b_nanos)
end

local time_field, key_life, view_life, width = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local at, written = 5 + width, 0
--[[ fields ]]
for _, key in ipairs(KEYS) do
  local stored = call('HGET', key, time_field)
  if not stored or not newer(stored, ARGV[at]) then
    local left = -2
    if key_life == 0 and view_life > 0 then left = call('PTTL', key) end
    --[[ write ]]
    if key_life > 0 then
      call('PEXPIRE', key, key_life)
    elseif view_life == 0 then
      if not stored then call('PERSIST', key) end  -- and nobody takes that back
    elseif left ~= -1 and left < view_life then  -- -1: it is to stay
      call('PEXPIRE', key, view_life)
    end
    written = written + 1
  end
  at = at + width + 1
end
return written
"""
# Written out, the one call that writes a row costs the server a tenth less; a function of Lua's has 200 locals.
WRITTEN_OUT_MAX = 100
_FIELDS = """\
local row, last = {false, time_field}, 3 + 2 * width
for i = 1, width do row[2 + 2 * i] = ARGV[4 + i] end"""
_WRITE = """\
row[1] = key
    for i = 0, width do row[3 + 2 * i] = ARGV[at + i] end
    call('HSET', unpack(row, 1, last))"""
FEATURES_MAX = 3900  # Lua hands no more than 8,000 values to a call
ENTITIES_PER_CALL = 200  # 2 ms of the server's time, in which nobody else is served
CALLS_FIRST, CALLS_PER_TRIP = 2, 10
RETRY_FULL_SECONDS = 2.0
RETRY_BUSY_SECONDS = 0.5
# In an error of a script Redis 6 gives the reason behind a dash, Redis 7 in front.
_FULL = re.compile(r"(?:^|[ -])(OOM|READONLY|MISCONF|NOREPLICAS) ")
_BUSY = re.compile(r"^(BUSY|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN) ")
_HEADS = {size: b"$%d\r\n" % size for size in range(256)}


class Call(NamedTuple):
    """Of how many features, and what follows the script in a call: how many arguments, and these as bulk strings."""

    width: int
    size: int
    arguments: bytes


@dataclass(frozen=True)
class Life:
    """How long a key is kept after a write, in ms; 0 is for ever.

    Attributes
    ----------
    key_ms : int
        Whatever else is in the key.
    view_ms : int
        Unless it has longer to live; only where `key_ms` is 0.
    """

    key_ms: int = 0
    view_ms: int = 0


@dataclass(frozen=True)
class Table:
    """A view in Redis.

    Attributes
    ----------
    time_field : bytes
    fields : tuple of bytes
        Of its features.
    life : Life
    """

    time_field: bytes
    fields: tuple[bytes, ...]
    life: Life

    def __post_init__(self) -> None:
        if len(self.fields) > FEATURES_MAX:
            raise StoreError(f"expected at most {FEATURES_MAX} features in a view, got {len(self.fields)}")


def calls(table: Table, keys: Sequence[bytes], columns: Sequence[Cells]) -> Iterator[Call]:
    """Calls of the script that write these rows, without the script itself.

    A call has thousands of arguments, and a client takes longer to frame each than it took to make it. So they are
    framed here, a column at a time, as https://redis.io/docs/latest/develop/reference/protocol-spec has it.

    Parameters
    ----------
    table : Table
    keys : sequence of bytes, n
        Redis keys; the same one may come more than once.
    columns : sequence of Cells, each n
        Times, then the features in the table's order.
    """
    if not keys:
        return
    life = table.life
    settings = (table.time_field, *(b"%d" % each for each in (life.key_ms, life.view_ms, len(table.fields))))
    head = b"".join(_bulk_list([*settings, *table.fields]))
    entities, rows = _bulk_list(keys), _bulk_rows(columns)
    for start in range(0, len(keys), ENTITIES_PER_CALL):
        part = slice(start, start + ENTITIES_PER_CALL)
        some = entities[part]
        count = 1 + len(some) + len(settings) + len(table.fields) + len(some) * len(columns)
        numbered = _bulk_list([b"%d" % len(some)])
        yield Call(len(table.fields), count, b"".join([*numbered, *some, head, *rows[part]]))


def run(client: Redis, work: Iterable[Call]) -> int:
    """Run calls of the script; returns how many rows were written.

    The server works on some calls while the next ones are made. Each call is atomic. Where one fails those around it
    may have been carried out: do all again.

    Raises
    ------
    redis.exceptions.RedisError
    """
    commands = _commands(work)
    connection = client.connection_pool.get_connection()
    try:
        written = under_way = 0
        size = CALLS_FIRST  # the sooner the server begins, the less it waits
        while trip := list(islice(commands, size)):
            connection.send_packed_command(trip)
            written += sum(connection.read_response() for _ in range(under_way))
            under_way, size = len(trip), CALLS_PER_TRIP
        return written + sum(connection.read_response() for _ in range(under_way))
    except BaseException:
        connection.disconnect()  # answers may be under way still
        raise
    finally:
        client.connection_pool.release(connection)


def _commands(work: Iterable[Call]) -> Iterator[bytes]:
    """The first call of each width brings its script, so that the others find it, on a server just started too."""
    known: dict[int, tuple[bytes, bytes]] = {}
    for call in work:
        script = known.get(call.width)
        if script is None:
            text = script_of(call.width).encode()
            known[call.width] = b"EVALSHA", hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
            script = b"EVAL", text
        yield b"*%d\r\n%b%b" % (len(script) + call.size, b"".join(_bulk_list(script)), call.arguments)


@cache
def script_of(width: int) -> str:
    """The script for rows of so many features."""
    fields, write = _FIELDS, _WRITE
    if 0 < width <= WRITTEN_OUT_MAX:
        names = [f"f{number}" for number in range(1, width + 1)]
        cells = [f"{name}, ARGV[at + {number}]" for number, name in enumerate(names, 1)]
        fields = f"local {', '.join(names)} = unpack(ARGV, 5, 4 + width)"
        write = f"call('HSET', key, time_field, ARGV[at], {', '.join(cells)})"
    return SCRIPT.replace("--[[ fields ]]", fields).replace("--[[ write ]]", write)


def _bulk_rows(columns: Sequence[Cells]) -> list[bytes]:
    """The bulk strings of each row; columns of fixed length that stand side by side are put together in one go."""
    groups: list[list[bytes]] = []
    for in_array, some in groupby(columns, key=lambda each: isinstance(each, np.ndarray)):
        if in_array:
            cells = np.concatenate([_bulk_array(cast(Any, each)) for each in some], axis=1)
            groups.append(cells.view(f"V{cells.shape[1]}").ravel().tolist())
        else:
            groups += [_bulk_list(cast(list[bytes], each)) for each in some]
    return groups[0] if len(groups) == 1 else list(map(b"".join, zip(*groups, strict=True)))


def _bulk_array(cells: npt.NDArray[np.void]) -> npt.NDArray[np.uint8]:
    """Values of one length as bulk strings, a row each."""
    head, width = b"$%d\r\n" % cells.itemsize, cells.itemsize
    found = np.empty((len(cells), len(head) + width + 2), np.uint8)
    found[:, : len(head)] = np.frombuffer(head, np.uint8)
    found[:, len(head) : -2] = cells.view(np.uint8).reshape(-1, width)
    found[:, -2:] = np.frombuffer(b"\r\n", np.uint8)
    return found


def _bulk_list(values: Sequence[bytes]) -> list[bytes]:
    return [_HEADS.get(len(value), b"$%d\r\n" % len(value)) + value + b"\r\n" for value in values]


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Redis's errors as ours; `where` names the server."""
    try:
        yield
    except RedisError as exc:
        raise _ours(exc, where) from exc


def _ours(exc: RedisError, where: str) -> StoreError:
    said = str(exc)
    if isinstance(exc, AuthenticationError | AuthorizationError):
        return StoreError(f"Redis at {where}: {said}; check username and password in connection_string")
    if isinstance(exc, OutOfMemoryError | ReadOnlyError) or _FULL.search(said):
        return StoreFullError(f"Redis at {where} takes no writes: {said}", retry_after_seconds=RETRY_FULL_SECONDS)
    passing = ConnectionError | TimeoutError | BusyLoadingError | ClusterDownError | TryAgainError | NoScriptError
    if isinstance(exc, passing) or _BUSY.search(said):
        return StoreBusyError(f"Redis at {where} does not answer: {said}", retry_after_seconds=RETRY_BUSY_SECONDS)
    return StoreError(f"Redis at {where}: {said}; check that nothing but Feast writes to this database")
