"""Feast's Redis online store, written in batches, where an older row never replaces a newer one.

In ``feature_store.yaml``::

    online_store:
      type: features.online.redis_store.HeadwaterRedisOnlineStore
      connection_string: redis:6379,db=0

The layout is Feast's own (one hash an entity and project, ``mmh3(view:feature)`` to a serialized ``Value``,
``_ts:view`` to a serialized ``Timestamp``), so Feast's ``redis`` store and feature servers read what is written here,
and the other way round. Two things differ from Feast's writer. The guard by event time is part of the write: a script
in the server compares and sets, so it holds whoever else writes through it, while Feast's reads first and writes later.
And of two rows of the same time the later written stays, as in the embedded store.

A key lives for ``key_ttl_seconds`` after its last write, as in Feast; where that is not set, for the ``ttl`` of the
view after its last write. A ``ttl`` never shortens what the key has left, since other views of the entity live there
too, and a view without one keeps the key for ever. It counts from the write, not from the event time, so that what a
replay of last year writes is not gone at once.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain, groupby, pairwise
from typing import Any, Literal

import numpy as np
from feast import utils
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import _mmh3, _redis_key, compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from google.protobuf.timestamp_pb2 import Timestamp

from features.compiler.topics import UnsupportedViewError, join_key_fields, value_fields
from features.online.lookup import stored_view
from features.online.redis_script import Call, Life, Table, calls, run, translated
from features.online.rows import Row, StoreError
from features.online.wire import ENTITY_KEY_VERSION, KeyEncoder, time_bytes, value_encoder
from schemas.batch import BatchDecoder
from schemas.codec import DecodeError

__all__ = ["HeadwaterRedisOnlineStore", "HeadwaterRedisOnlineStoreConfig", "RedisRows"]

TIMEOUT_SECONDS = 5.0  # unless connection_string says otherwise; Feast's own store waits for ever
ROWS_PER_DECODE = 2000  # decoded while the server writes those before
ROWS_FIRST = 400  # for which it has to wait
WriteRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
log = logging.getLogger(__name__)


class HeadwaterRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Configuration, with the options of Feast's ``redis`` store.

    ``skip_dedup`` has no effect: the guard costs no round trip.
    """

    type: Literal["features.online.redis_store.HeadwaterRedisOnlineStore"] = (
        "features.online.redis_store.HeadwaterRedisOnlineStore"  # type: ignore[assignment]
    )


class HeadwaterRedisOnlineStore(RedisOnlineStore):
    """See the module. Reads, deletes and tears down as Feast's own."""

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[WriteRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows; one older than what is there is left out.

        Raises
        ------
        StoreBusyError, StoreFullError, StoreError
            See :meth:`features.online.store.FeatureRows.write`.
        """
        work = (
            call
            for names, rows in groupby(data, key=lambda row: tuple(row[1]))
            for call in _message_calls(config, table, names, list(rows))
        )
        self.run(config, work)
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[WriteRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """As :meth:`online_write_batch`, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def run(self, config: RepoConfig, work: Iterator[Call]) -> int:
        """Run calls of the script; returns how many rows they wrote."""
        options = config.online_store
        if options.redis_type == RedisType.redis_cluster:
            raise StoreError("redis_type redis_cluster: a batch of entities lies in many slots; use redis or sentinel")
        if config.entity_key_serialization_version != ENTITY_KEY_VERSION:
            raise StoreError(f"expected entity_key_serialization_version: {ENTITY_KEY_VERSION} in feature_store.yaml")
        with translated(_address(options)):
            return run(self._get_client(options), work)

    @staticmethod
    def _parse_connection_string(connection_string: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
        nodes, options = RedisOnlineStore._parse_connection_string(connection_string)
        waits = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), TIMEOUT_SECONDS)
        return nodes, waits | options


class RedisRows:
    """Kafka records of ``features.<view>`` into Redis, decoded a batch at a time: what the pusher writes to.

    Parameters
    ----------
    config : RepoConfig
        With an online store of Feast's ``redis`` type or of ours.
    views : mapping of str to FeatureView
        By name.

    Attributes
    ----------
    refused : int
        Records that are not of their view's schema.
    """

    def __init__(self, config: RepoConfig, views: Mapping[str, FeatureView]) -> None:
        if config.registry.enable_online_feature_view_versioning:
            raise StoreError("the pusher writes under the plain names of views: turn off their versioning")
        self.refused = 0
        self._config, self._views = config, views
        self._store = HeadwaterRedisOnlineStore()
        self._encoders: dict[str, _RowEncoder] = {}

    def ensure(self, view: str) -> None:
        """Get ready for the rows of a view.

        Raises
        ------
        StoreError
            Where there is no such view, or one that Feast's layout cannot hold.
        """
        if view not in self._views:
            known = ", ".join(sorted(self._views))
            raise StoreError(f"no view {view!r} in {self._config.repo_path}; there are {known}")
        try:
            self._encoders[view] = _RowEncoder(self._views[view], self._config)
        except UnsupportedViewError as exc:
            raise StoreError(f"view {view}: {exc}") from exc

    def clear(self, view: str) -> None:
        """Forget a view's rows, those of its present join keys and features."""
        with translated(_address(self._config.online_store)):
            self._store.delete_table(self._config, self._views[view])

    def write(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Write what can be decoded, and log and count what cannot; see :class:`features.online.store.FeatureRows`."""
        refused: dict[str, list[DecodeError]] = {}
        work = chain.from_iterable(self._calls(view, each, refused) for view, each in rows.items())
        self._store.run(self._config, work)
        for view, bad in refused.items():
            self.refused += len(bad)
            log.warning("view %s: %d records are not of its schema and were left out: %s", view, len(bad), bad[0])

    def close(self) -> None:
        """Close the connections."""
        self._store._get_client(self._config.online_store).close()

    def _calls(self, view: str, rows: Sequence[Row], refused: dict[str, list[DecodeError]]) -> Iterator[Call]:
        if view not in self._encoders:
            self.ensure(view)
        edges = [0, *range(ROWS_FIRST, len(rows), ROWS_PER_DECODE), len(rows)] if rows else []
        for start, end in pairwise(edges):
            good, bad = self._encoders[view].calls(rows[start:end])
            if bad:
                refused.setdefault(view, []).extend(bad)
            yield from good


class _RowEncoder:
    """From Kafka records of one view to calls of the script."""

    def __init__(self, view: FeatureView, config: RepoConfig) -> None:
        stored = stored_view(view)
        self._table = _table(config, view, stored.features)
        self._keys = KeyEncoder(join_key_fields(view), config.project)
        self._key_decoder = BatchDecoder(stored.entity_schema, stored.entity_id)
        self._decoder = BatchDecoder(stored.feature_schema, stored.feature_id)
        self._features = [(field.name, value_encoder(field.dtype)) for field in value_fields(view)]

    def calls(self, rows: Sequence[Row]) -> tuple[Iterator[Call], list[DecodeError]]:
        """Calls that write the good rows, and why others are bad."""
        keys, bad_keys = self._key_decoder.decode([key for key, _, _ in rows])
        values, bad_values = self._decoder.decode([value for _, _, value in rows])
        if bad_keys or bad_values:
            bad = dict([*bad_keys, *bad_values])
            good, _ = self.calls([row for number, row in enumerate(rows) if number not in bad])
            return good, list(bad.values())
        times = time_bytes(np.fromiter((time_ms for _, time_ms, _ in rows), np.int64, len(rows)))
        columns = [encode(values.column(name)) for name, encode in self._features]
        return calls(self._table, self._keys.encode(keys), times, columns), []


def _table(config: RepoConfig, view: FeatureView, features: Sequence[str]) -> Table:
    """Where Feast keeps a view."""
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    key_ms = 1000 * (config.online_store.key_ttl_seconds or 0)
    life = Life(key_ms, (view.ttl or timedelta(0)) // timedelta(milliseconds=1))
    return Table(f"_ts:{name}".encode(), tuple(_mmh3(f"{name}:{each}") for each in features), life)


def _message_calls(
    config: RepoConfig, view: FeatureView, features: Sequence[str], rows: Sequence[WriteRow]
) -> Iterator[Call]:
    """Calls that write rows of the same features."""
    keys = [_redis_key(config.project, key, config.entity_key_serialization_version) for key, _, _, _ in rows]
    times = [_timestamp(event_time) for _, _, event_time, _ in rows]
    columns = [[values[name].SerializeToString() for _, values, _, _ in rows] for name in features]
    return calls(_table(config, view, features), keys, times, columns)


def _timestamp(event_time: datetime) -> bytes:
    found = Timestamp()
    found.FromDatetime(utils.make_tzaware(event_time))
    return found.SerializeToString()


def _address(options: RedisOnlineStoreConfig) -> str:
    """Where the server is, without the password."""
    return ",".join(part for part in options.connection_string.split(",") if "=" not in part)
