"""A Feast online store in a sqlite file that keeps an older row from replacing a newer one.

In ``feature_store.yaml``::

    online_store:
      type: features.online.embedded.EmbeddedOnlineStore
      path: online.db

``feast apply``, ``get_online_features``, ``push`` and ``write_to_online_store`` work as with Feast's own stores. The
fast way in is :func:`write_rows`, which takes Kafka records of ``features.<view>`` as they are.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from feast import Entity
from feast.feature_view import FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.types import Array, FeastType, UnixTimestamp
from pydantic import StrictStr

from features.compiler.topics import (
    EVENT_TIME,
    WATERMARK,
    entity_codec,
    feature_codec,
    join_key_fields,
    value_fields,
)
from features.online.rows import Row, RowStore
from schemas.codec import Codec, DecodeError

__all__ = ["EmbeddedOnlineStore", "EmbeddedOnlineStoreConfig", "ViewCodec", "view_codec", "write_rows"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FeatureRow = tuple[datetime | None, dict[str, Value] | None]
WriteRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
log = logging.getLogger(__name__)


class EmbeddedOnlineStoreConfig(FeastConfigBaseModel):
    """Configuration of the embedded store.

    Attributes
    ----------
    path : str
        The sqlite file; relative to the repo.
    busy_seconds : float
        How long a write waits for another writer.
    """

    type: Literal["features.online.embedded.EmbeddedOnlineStore"] = "features.online.embedded.EmbeddedOnlineStore"
    path: StrictStr = "data/online.db"
    busy_seconds: float = 5.0


class ViewCodec:
    """Feast's values of one view to and from the bytes in Kafka and in the store."""

    def __init__(self, view: FeatureView) -> None:
        self.name = view.name
        self._entity: Codec = entity_codec(view)
        self._record: Codec = feature_codec(view)
        self._join_keys = [field.name for field in join_key_fields(view)]
        self._fields = {field.name: field.dtype for field in value_fields(view)}
        keys = {field.name: field.dtype for field in join_key_fields(view)}
        self._to_value = {name: _value_maker(dtype) for name, dtype in (self._fields | keys).items()}

    def entity(self, key: EntityKey) -> bytes | None:
        """The record key of an entity; None where a join key is null.

        Raises
        ------
        ValueError
            Where the join keys are others than the view's, or of other types.
        """
        found = {name: _python(value) for name, value in zip(key.join_keys, key.entity_values, strict=True)}
        if sorted(found) != self._join_keys:
            raise ValueError(f"view {self.name}: expected join keys {self._join_keys}, got {sorted(found)}")
        if None in found.values():
            return None
        try:
            return self._entity.encode(found)
        except (TypeError, ValueError) as exc:
            raise ValueError(f"view {self.name}: the entity {found} does not fit its types: {exc}") from exc

    def entity_key(self, entity: bytes) -> EntityKey:
        """The entity of a record key.

        Raises
        ------
        DecodeError
            Where the bytes are not of the entity's schema.
        """
        found = self._entity.decode(entity)
        values = [self._to_value[name](found[name]) for name in self._join_keys]
        return EntityKey(join_keys=self._join_keys, entity_values=values)

    def row(self, key: EntityKey, values: Mapping[str, Value], event_time: datetime) -> Row | None:
        """A row for the store; None where a join key is null."""
        entity = self.entity(key)
        if entity is None:
            return None
        at = event_time if event_time.tzinfo else event_time.replace(tzinfo=UTC)
        record: dict[str, Any] = {EVENT_TIME: at, WATERMARK: None}
        record |= {name: _python(value) for name, value in zip(key.join_keys, key.entity_values, strict=True)}
        for name, dtype in self._fields.items():
            value = values.get(name)
            record[name] = None if value is None else _python(value, dtype)
        return entity, (at - EPOCH) // timedelta(milliseconds=1), self._record.encode(record)

    def values(self, value: bytes, names: Sequence[str] | None) -> dict[str, Value]:
        """Feast's values in a record, of all features or the named ones.

        Raises
        ------
        DecodeError
            Where the record is not of this view's present schema.
        """
        record = self._record.decode(value)
        make = self._to_value
        return {name: make[name](record[name]) for name in (self._fields if names is None else names) if name in make}


class EmbeddedOnlineStore(OnlineStore):
    """See the module."""

    _store: RowStore | None = None

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Both ways, by threads."""
        return SupportedAsyncMethods(read=True, write=True)

    def rows(self, config: RepoConfig) -> RowStore:
        """The rows behind this store."""
        options = config.online_store
        path = Path(options.path)
        if not path.is_absolute() and config.repo_path:
            path = Path(config.repo_path) / path
        if self._store is None or self._store.path != path:
            self._store = RowStore(path, options.busy_seconds)
        return self._store

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[WriteRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows; one older than what is there is left out."""
        codec = view_codec(table)
        rows = [codec.row(key, values, event_time) for key, values, event_time, _ in data]
        if None in rows:
            raise ValueError(f"view {table.name}: expected every join key to have a value, got a null one")
        self.rows(config).write({table.name: [row for row in rows if row is not None]})
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

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[FeatureRow]:
        """Newest row of each entity: its event time and values, or twice None."""
        codec = view_codec(table)
        entities = [codec.entity(key) for key in entity_keys]
        found = self.rows(config).read(table.name, [each for each in entities if each is not None])
        answer: list[FeatureRow] = []
        for entity in entities:
            event_ms, value = found.get(entity, (0, b"")) if entity is not None else (0, b"")
            try:
                values = codec.values(value, requested_features) if value else None
            except DecodeError as exc:  # a row of before the view changed
                log.warning("view %s: a row in the store is not of its schema, taken as missing: %s", table.name, exc)
                values = None
            answer.append((None, None) if values is None else (EPOCH + timedelta(milliseconds=event_ms), values))
        return answer

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[FeatureRow]:
        """As :meth:`online_read`, in a thread."""
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Create and drop tables as ``feast apply`` wants them."""
        store = self.rows(config)
        for view in tables_to_delete:
            store.drop(view.name)
        for view in tables_to_keep:
            view_codec(view)  # what cannot be stored is said now, not at the first row
            store.ensure(view.name)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Drop the tables of these views."""
        for view in tables:
            self.rows(config).drop(view.name)

    async def close(self) -> None:
        """Close this thread's connection."""
        if self._store is not None:
            self._store.close()


def write_rows(store: RowStore, view: str, rows: Sequence[Row]) -> None:
    """Write Kafka records of ``features.<view>`` as they are: key, timestamp in ms, value. Decodes nothing."""
    store.write({view: rows})


def view_codec(view: FeatureView) -> ViewCodec:
    """The codec of a view, made once for each of its shapes."""
    return _view_codec(_Shape(view))


class _Shape:
    """A view, equal to another of the same name, keys and features: their order differs from read to read."""

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self._key = (
            view.name,
            *(frozenset((f.name, str(f.dtype)) for f in each) for each in (view.entity_columns, view.features)),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shape) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=1024)
def _view_codec(shape: _Shape) -> ViewCodec:
    return ViewCodec(shape.view)


def _python(value: Value, dtype: FeastType | None = None) -> Any:
    """What a Feast value holds, as fastavro takes it; None for a null one."""
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    found = getattr(value, kind)
    if kind.endswith("_list_val"):
        items = list(found.val)
        return [_moment(each) for each in items] if kind == "unix_timestamp_list_val" else items
    if kind == "unix_timestamp_val":
        return _moment(found)
    return found


def _moment(seconds: int) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def _value_maker(dtype: FeastType) -> Callable[[Any], Value]:
    """From a decoded field to Feast's value of exactly that type. Feast's timestamps are whole seconds."""
    kind = dtype.to_value_type().name.lower()
    attribute = f"{kind}_val"
    if isinstance(dtype, Array):
        list_type = type(getattr(Value(), attribute))
        convert = _seconds if dtype.base_type == UnixTimestamp else None

        def make_list(found: Any) -> Value:
            if found is None:
                return Value()
            return Value(**{attribute: list_type(val=map(convert, found) if convert else found)})

        return make_list
    if dtype == UnixTimestamp:
        return lambda found: Value() if found is None else Value(unix_timestamp_val=_seconds(found))
    return lambda found: Value() if found is None else Value(**{attribute: found})


def _seconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(seconds=1)
