"""ClickHouse's HTTP interface, the bytes of it: bodies, parameters, statements, errors. No engine here."""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from io import BufferedIOBase
from itertools import chain
from typing import Any, Literal

import lz4.frame
from backports import zstd

__all__ = [
    "InsertStatement",
    "WireError",
    "body_chunks",
    "clean_message",
    "error_code",
    "form_fields",
    "http_status",
    "insert_head",
    "output_format",
    "setting_clause",
    "split_parameters",
    "statement_kind",
]

CHUNK_BYTES = 1 << 20
HEAD_BYTES_MAX = 1 << 20

# Parameters the HTTP interface takes for itself; every other one is a setting of the engine.
_TRANSPORT = frozenset(
    {
        "buffer_size",
        "client_protocol_version",
        "compress",
        "database",
        "decompress",
        "default_format",
        "enable_http_compression",
        "http_headers_progress_interval_ms",
        "password",
        "query",
        "query_id",
        "quota_key",
        "role",
        "send_progress_in_http_headers",
        "session_check",
        "session_id",
        "session_timeout",
        "user",
        "wait_end_of_query",
    }
)
_QUOTED = rb"`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\""
_NAME = rb"(?:" + _QUOTED + rb"|\w+)"
_COLUMNS = rb"\((?:[^()`\"]++|" + _QUOTED + rb")*+\)\s*"  # possessive: text that is no list must fail at once
_INSERT = re.compile(
    rb"\s*(INSERT\s+INTO\s+(?:TABLE\s+)?" + _NAME + rb"(?:\." + _NAME + rb")?\s*(?:" + _COLUMNS + rb")?"
    rb"(?:SETTINGS\s+[^\n]*?)?)\s*\bFORMAT\s+(\w+)[ \t]*;?[ \t]*(?:\r?\n|(?=\S)|\Z)",
    re.IGNORECASE,
)
_MAYBE_INSERT = re.compile(rb"\s*(?:I|IN|INS|INSE|INSER|INSERT\b.*)?\Z", re.IGNORECASE | re.DOTALL)
_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*;?\s*\Z", re.IGNORECASE)
_ROWS = re.compile(
    rb"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(SELECT|WITH|SHOW|DESCRIBE|DESC|EXISTS|EXPLAIN|CHECK)\b", re.I | re.S
)
_CODE = re.compile(r"Code: (\d+)\.")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STATUS = {60: 404, 81: 404, 62: 400, 36: 400, 47: 400, 27: 400, 6: 400, 159: 408, 241: 500}
_UNKNOWN = 1002


class WireError(ValueError):
    """A request that is not one. The message has ClickHouse's form, ``Code: N. DB::Exception: ...``."""


@dataclass(frozen=True)
class InsertStatement:
    """An INSERT whose rows follow it: the statement up to FORMAT, and the format."""

    sql: str
    format: str


def body_chunks(stream: BufferedIOBase, headers: Message) -> Iterator[bytes]:
    """The body of a request, decompressed, piece by piece.

    Raises
    ------
    WireError
        Where it breaks off, or its encoding is unknown.
    """
    encoding = headers.get("Content-Encoding", "identity").lower()
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        raw = _chunked(stream)
    else:
        raw = _sized(stream, int(headers.get("Content-Length") or 0))
    if encoding == "identity":
        return raw
    makers: dict[str, Callable[[], Any]] = {
        "lz4": lz4.frame.LZ4FrameDecompressor,
        "zstd": zstd.ZstdDecompressor,
        "gzip": lambda: zlib.decompressobj(wbits=31),
        "deflate": zlib.decompressobj,
    }
    if encoding not in makers:
        raise WireError(f"Code: 89. DB::Exception: Unknown Content-Encoding {encoding!r}, known: {', '.join(makers)}.")
    return _decompressed(raw, makers[encoding])


def _sized(stream: BufferedIOBase, size: int) -> Iterator[bytes]:
    while size:
        data = stream.read(min(size, CHUNK_BYTES))
        if not data:
            raise WireError(f"Code: 99. DB::Exception: The body ended {size} bytes early.")
        size -= len(data)
        yield data


def _chunked(stream: BufferedIOBase) -> Iterator[bytes]:
    while True:
        line = stream.readline(64)
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError:
            raise WireError("Code: 99. DB::Exception: The chunked body ended early.") from None
        yield from _sized(stream, size)
        while (line := stream.readline(1024)) not in (b"\r\n", b"\n"):
            if size or not line:  # only the last chunk may have trailers
                raise WireError("Code: 99. DB::Exception: The chunked body ended early.")
        if not size:
            return


def _decompressed(raw: Iterator[bytes], make: Callable[[], Any]) -> Iterator[bytes]:
    """Any number of frames, one after the other: clients compress block by block."""
    decoder: Any = None
    for data in raw:
        while data:
            decoder = decoder or make()
            try:
                plain = decoder.decompress(data)
            except Exception as exc:  # each library has its own error
                raise WireError(f"Code: 354. DB::Exception: The body does not decompress: {exc}.") from exc
            data = decoder.unused_data if decoder.eof else b""
            if decoder.eof:
                decoder = None
            if plain:
                yield plain
    if decoder is not None:
        raise WireError("Code: 99. DB::Exception: The compressed body ended early.")


def form_fields(content_type: str, body: bytes) -> dict[str, str]:
    """Fields of a ``multipart/form-data`` body.

    Raises
    ------
    WireError
        For a file among them: external data is not supported.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    found: dict[str, str] = {}
    for part in body.split(f"--{boundary}".encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        named = Message()
        lines = (line.partition(":") for line in head.decode().splitlines())
        named["Content-Disposition"] = next((v for k, _, v in lines if k.lower() == "content-disposition"), "")
        if named.get_param("filename", header="content-disposition"):
            raise WireError("Code: 48. DB::Exception: External data is not supported here. (NOT_IMPLEMENTED)")
        found[str(named.get_param("name", header="content-disposition"))] = content.removesuffix(b"\r\n").decode()
    return found


def split_parameters(parameters: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """URL parameters as those of the transport, the values bound to the query, and the engine's settings."""
    transport = {name: value for name, value in parameters.items() if name in _TRANSPORT}
    bound = {name.removeprefix("param_"): value for name, value in parameters.items() if name.startswith("param_")}
    settings = {
        name: value
        for name, value in parameters.items()
        if name not in _TRANSPORT and not name.startswith(("param_", "http_", "cancel_http_"))
    }
    return transport, bound, settings


def setting_clause(settings: Mapping[str, str]) -> str:
    """``name = 'value', ...`` for a SET statement.

    Raises
    ------
    WireError
        For a name that is none.
    """
    parts = []
    for name, value in settings.items():
        if not _SETTING.fullmatch(name):
            raise WireError(f"Code: 115. DB::Exception: Unknown setting {name!r}. (UNKNOWN_SETTING)")
        parts.append(f"{name} = '" + value.replace("\\", "\\\\").replace("'", "\\'") + "'")
    return ", ".join(parts)


def insert_head(query: bytes, chunks: Iterator[bytes]) -> tuple[InsertStatement | None, Iterator[bytes]]:
    """Look for ``INSERT ... FORMAT f`` in the query parameter, or in the first bytes of the body.

    Returns
    -------
    statement : InsertStatement or None
    rest : iterator of bytes
        The rows after it; the whole body where there is no such statement.
    """
    if query:
        match = _INSERT.fullmatch(query)
        return (InsertStatement(match[1].decode(), match[2].decode()), chunks) if match else (None, chunks)
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) > HEAD_BYTES_MAX or not _MAYBE_INSERT.match(head[:HEAD_BYTES_MAX]):
            break
        match = _INSERT.match(head)
        if match and (match.end() < len(head) or head.endswith(b"\n")):
            break
    match = _INSERT.match(head)
    if match:
        statement = InsertStatement(match[1].decode(), match[2].decode())
        return statement, chain(filter(None, [head[match.end() :]]), chunks)
    return None, chain([head], chunks)


def output_format(sql: bytes) -> str | None:
    """The format a statement ends with, if it names one."""
    match = _FORMAT.search(sql)
    return match[1].decode() if match else None


def statement_kind(sql: bytes) -> Literal["select", "rows", "other"]:
    """A query, another statement that yields rows (if perhaps none), or one that does not."""
    match = _ROWS.match(sql)
    if match is None:
        return "other"
    return "select" if match[1].upper() in (b"SELECT", b"WITH") else "rows"


def error_code(message: str) -> int:
    """ClickHouse's code in an error message; 1002 (unknown) where there is none."""
    match = _CODE.search(message)
    return int(match[1]) if match else _UNKNOWN


def clean_message(message: str) -> str:
    """The engine's message from ``Code:`` on, without the version it sometimes adds."""
    at = message.find("Code: ")
    return message[max(at, 0) :].split(" (version ")[0].strip()


def http_status(code: int) -> int:
    """The HTTP status a ClickHouse server gives for an error code."""
    return _STATUS.get(code, 500)
