"""Rows into Redis hashes by a script that compares and sets in the server, and Redis's errors as ours."""

import hashlib
import re
import struct
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

_SCRIPT = """
-- KEYS: entities. ARGV: name of the time field, key's life and view's life in ms (0: none), time and features of each
-- entity in MessagePack, all in one; then names of the features' fields. Returns how many rows were written.
local call, byte, take = redis.call, string.byte, cmsgpack.unpack_limit

local function varint(s, i)
  local first, value, scale, b = i, 0, 1, byte(s, i)
  while b >= 128 do
    value, scale, i = value + (b - 128) * scale, scale * 128, i + 1
    b = byte(s, i)
  end
  if i - first < 9 then return value + b * scale, i + 1 end
  value, scale = 1, 1  -- ten bytes: negative, in two's complement
  for k = first, i - 1 do value, scale = value + (127 - byte(s, k) %% 128) * scale, scale * 128 end
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

local time_field, key_life, view_life = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local rows, f, at, written = ARGV[4], {}, 0, 0
for i = 1, %(features)d do f[i] = ARGV[4 + i] end
for _, key in ipairs(KEYS) do
  local stored, %(first)s = call('HGET', key, time_field)
  at, %(first)s = take(rows, %(taken)d, at)
  if stored and newer(stored, when) then
%(skip)s
  else
    local left = -2
    if key_life == 0 and view_life > 0 then left = call('PTTL', key) end
    call('HSET', key, time_field, when%(pairs)s)
%(writes)s
    if key_life > 0 then
      call('PEXPIRE', key, key_life)
    elseif view_life == 0 then
      if not stored then call('PERSIST', key) end  -- and nobody takes that back
    elseif left ~= -1 and left < view_life then  -- -1: it is to stay
      call('PEXPIRE', key, view_life)
    end
    written = written + 1
  end
end
return written
"""
FEATURES_PER_WRITE = 50  # a function of Lua has 250 registers: for each a value, and two arguments of the call
ENTITIES_PER_CALL = 200  # 2 ms of the server's time, in which nobody else is served
CALLS_FIRST, CALLS_PER_TRIP = 2, 10
RETRY_FULL_SECONDS = 2.0
RETRY_BUSY_SECONDS = 0.5
# In an error of a script Redis 6 gives the reason behind a dash, Redis 7 in front.
_FULL = re.compile(r"(?:^|[ -])(OOM|READONLY|MISCONF|NOREPLICAS) ")
_BUSY = re.compile(r"^(BUSY|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN) ")
_HEADS = {size: b"$%d\r\n" % size for size in range(1024)}


class Script(NamedTuple):
    """For views of so many features; ready to be sent."""

    text: bytes
    sha: bytes


class Call(NamedTuple):
    """A script, and what follows it in a call: how many arguments, and these as bulk strings."""

    script: Script
    size: int
    arguments: bytes


@cache
def script_of(features: int) -> Script:
    """The script for views of so many features.

    Their fields' names come once a call and not with each row. Rows come as one argument, of which values are taken
    without a table between: an argument or a table for each would cost the server as much as its writing does.
    """
    first, *others = [
        range(start + 1, min(features, start + FEATURES_PER_WRITE) + 1)
        for start in range(0, max(features, 1), FEATURES_PER_WRITE)
    ]
    writes = []
    for some in others:
        writes.append(f"    do local {_values(some)}")
        writes.append(f"    at, {_values(some)} = take(rows, {len(some)}, at)")
        writes.append(f"    call('HSET', key{_pairs(some)}) end")
    text = _SCRIPT % {
        "features": features,
        "first": ", ".join(["when", *([_values(first)] if first else [])]),
        "taken": 1 + len(first),
        "skip": f"    at = take(rows, {features - len(first)}, at)" if others else "",
        "pairs": _pairs(first),
        "writes": "\n".join(writes),
    }
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(text.encode(), sha.encode())


def _values(some: range) -> str:
    return ", ".join(f"v{each}" for each in some)


def _pairs(some: range) -> str:
    return "".join(f", f[{each}], v{each}" for each in some)


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


def calls(table: Table, keys: Sequence[bytes], times: Sequence[bytes], columns: Sequence[Cells]) -> Iterator[Call]:
    """Calls of the script that write these rows, without the script itself.

    A call has hundreds of arguments, and a client takes longer to frame each than it took to make it. So they are
    framed here, all at once, as https://redis.io/docs/latest/develop/reference/protocol-spec has it.

    Parameters
    ----------
    table : Table
    keys : sequence of bytes, n
        Redis keys; the same one may come more than once.
    times : sequence of bytes, n
        Serialized ``google.protobuf.Timestamp``.
    columns : sequence of Cells, each n
        The features, in the table's order.
    """
    life, script = table.life, script_of(len(table.fields))
    settings = _bulk_list([table.time_field, b"%d" % life.key_ms, b"%d" % life.view_ms])
    fields = _bulk_list(table.fields)
    entities, rows = _bulk_list(keys), _rows([list(times), *columns])
    for start in range(0, len(keys), ENTITIES_PER_CALL):
        some = entities[start : start + ENTITIES_PER_CALL]
        numbered = _bulk_list([b"%d" % len(some)])
        packed = _bulk_list([b"".join(rows[start : start + len(some)])])
        arguments = [*numbered, *some, *settings, *packed, *fields]
        yield Call(script, len(arguments), b"".join(arguments))


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
    """The first call brings its script, so that the others find it, on a server just started too."""
    brought: set[Script] = set()
    for call in work:
        script = (b"EVALSHA", call.script.sha) if call.script in brought else (b"EVAL", call.script.text)
        yield b"*%d\r\n%b%b" % (len(script) + call.size, b"".join(_bulk_list(script)), call.arguments)
        brought.add(call.script)


def _rows(columns: Sequence[Cells]) -> list[bytes]:
    """Each row in MessagePack. Columns of fixed length that stand side by side are put together in one go."""
    groups: list[list[bytes]] = []
    for in_array, some in groupby(columns, key=lambda each: isinstance(each, np.ndarray)):
        if in_array:
            wide = np.concatenate([_packed_array(cast(Any, cells)) for cells in some], axis=1)
            groups.append(wide.view(f"V{wide.shape[1]}").ravel().tolist())
        else:
            groups += [[_packed(each) for each in cells] for cells in some]
    return groups[0] if len(groups) == 1 else list(map(b"".join, zip(*groups, strict=True)))


def _packed_array(cells: npt.NDArray[np.void]) -> npt.NDArray[np.uint8]:
    """Values of one length, a row each."""
    head, width = _packed_head(cells.itemsize), cells.itemsize
    found = np.empty((len(cells), len(head) + width), np.uint8)
    found[:, : len(head)] = np.frombuffer(head, np.uint8)
    found[:, len(head) :] = cells.view(np.uint8).reshape(-1, width)
    return found


def _packed(value: bytes) -> bytes:
    return _packed_head(len(value)) + value


def _packed_head(size: int) -> bytes:
    """Of a string: https://github.com/msgpack/msgpack/blob/master/spec.md#str-format-family."""
    if size < 32:
        return b"%c" % (0xA0 | size)
    return struct.pack(">BH", 0xDA, size) if size < 1 << 16 else struct.pack(">BI", 0xDB, size)


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
