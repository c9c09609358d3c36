"""A Feast offline store that computes features from the archived events, as of each entity's own time.

In ``feature_store.yaml``::

    offline_store:
      type: features.offline.clickhouse.HeadwaterOfflineStore
      url: http://127.0.0.1:8123

``get_historical_features`` answers what ``headwater training-set`` answers: of each stream feature view the newest row
with event time <= t, unless the view's ``ttl`` says that it is too old by then, computed from its topic's archive with
the meaning the definitions have in the stream. A view's batch source is never read, so there is nothing to materialize
from it; on-demand views are Feast's own, on top.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NoReturn

import clickhouse_connect
import pandas as pd
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from feast import OnDemandFeatureView, StreamFeatureView
from feast.data_source import DataSource
from feast.errors import EntityTimestampInferenceException
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from pydantic import StrictStr

from features.compiler.clickhouse import Known
from features.compiler.definition import definition
from features.offline.as_of import TIMES, as_of, entity_times
from features.offline.history import HistoryError

__all__ = ["HeadwaterOfflineStore", "HeadwaterOfflineStoreConfig", "HistoricalFeatures"]

TIMEOUT_S = 300


class HeadwaterOfflineStoreConfig(FeastConfigBaseModel):
    """Configuration.

    Attributes
    ----------
    url : str
        Of the archive's ClickHouse: ``http://user:password@host:port``.
    known : {"now", "then"}
        Whether records count that were late for the stream.
    """

    type: Literal["features.offline.clickhouse.HeadwaterOfflineStore"] = (
        "features.offline.clickhouse.HeadwaterOfflineStore"
    )
    url: StrictStr = "http://127.0.0.1:8123"
    known: Known = "now"


@dataclass(frozen=True)
class _Asked:
    """What is wanted of one view: by join key the entities' column, by feature the answer's column."""

    view: StreamFeatureView
    keys: dict[str, str]
    columns: dict[str, str]


class HistoricalFeatures(RetrievalJob):
    """Entities with features, computed when they are asked for, each time anew."""

    def __init__(
        self,
        config: HeadwaterOfflineStoreConfig,
        entities: pa.Table,
        time: str,
        asked: Sequence[_Asked],
        on_demand: list[OnDemandFeatureView],
        full_names: bool,
        refs: list[str],
    ) -> None:
        self._config, self._entities, self._asked = config, entities, asked
        self._time, self._times = time, entity_times(entities, time)
        self._on_demand, self._full_names, self._refs = on_demand, full_names, refs

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called ``<view>__<feature>``."""
        return self._full_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """What Feast computes on top."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata:
        """What was asked for, and of which span."""
        millis = self._times.to_pandas()
        return RetrievalMetadata(
            features=self._refs,
            keys=[name for name in self._entities.column_names if name != self._time],
            min_event_timestamp=millis.min().to_pydatetime() if len(millis) else None,
            max_event_timestamp=millis.max().to_pydatetime() if len(millis) else None,
        )

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        found = self._entities
        with _client(self._config.url, timeout) as client:
            for each in self._asked:
                columns = as_of(
                    client, each.view, self._entities, self._times, each.keys, tuple(each.columns), self._config.known
                )
                for feature, called in each.columns.items():
                    found = found.append_column(called, columns.column(feature))
        return found

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None
    ) -> NoReturn:
        """Refused: an archive keeps what topics held, not what was made of it.

        Raises
        ------
        NotImplementedError
        """
        raise NotImplementedError(
            "saved datasets are not kept in the archive; write to_arrow() to a Parquet file, as `headwater "
            "training-set` does"
        )


class HeadwaterOfflineStore(OfflineStore):
    """See the module."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **unknown: object,
    ) -> HistoricalFeatures:
        """Features as of each entity's own time.

        Parameters
        ----------
        config, feature_views, feature_refs, registry, project, full_feature_names
            As Feast says.
        entity_df : DataFrame
            Join keys, and a time: ``event_timestamp``, ``event_time`` or the one column of timestamps.
        **unknown
            Feast's ``start_date`` and ``end_date``, which go without entities.

        Raises
        ------
        NotImplementedError
            For entities as SQL, or none.
        HistoryError
            Where a column is missing or there twice, or a view is no stream feature view.
        UnsupportedViewError
            Where a view has no meaning here.
        """
        if isinstance(entity_df, str):
            raise NotImplementedError(
                "entity_df: expected a DataFrame, got SQL: which of its columns are entities is not known before it "
                "runs; run it yourself and hand over what it gives"
            )
        if entity_df is None or unknown:
            raise NotImplementedError(
                f"entity_df: expected a DataFrame of entities and times, got none{_listed(unknown)}; every row of a "
                "view over a span is what `headwater backfill --parquet FILE` writes"
            )
        entities = _table(entity_df)
        asked = [_asked(view, feature_refs, full_feature_names) for view in feature_views]
        _refuse_clashes(entities, asked)
        return HistoricalFeatures(
            config.offline_store,
            entities,
            _time_of(entity_df),
            asked,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            full_feature_names,
            feature_refs,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> NoReturn:
        """Refused: what Feast would materialize, the stream keeps in the online store.

        Raises
        ------
        NotImplementedError
        """
        raise _not_from(data_source)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> NoReturn:
        """Refused: batch sources are not read.

        Raises
        ------
        NotImplementedError
        """
        raise _not_from(data_source)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: Any,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> NoReturn:
        """Refused: the scoring job logs features with each prediction.

        Raises
        ------
        NotImplementedError
        """
        raise NotImplementedError("features are logged with each prediction, in predictions.<model>")

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> NoReturn:
        """Refused: history is computed from events, and never written.

        Raises
        ------
        NotImplementedError
        """
        raise NotImplementedError(
            f"feature view {feature_view.name!r}: its history is computed from the events of its topic; send events"
        )


def _not_from(source: DataSource) -> NotImplementedError:
    return NotImplementedError(
        f"{source.name}: batch sources are not read, the online store is filled from the stream; `headwater backfill` "
        "computes a view's rows from the archive of its topic, for the online store or for a file"
    )


def _asked(view: FeatureView, refs: Sequence[str], full_names: bool) -> _Asked:
    if not isinstance(view, StreamFeatureView):
        raise HistoryError(
            f"feature view {view.name!r}: expected a StreamFeatureView, whose topic is archived, got "
            f"{type(view).__name__}"
        )
    projection = view.projection
    keys = {key: projection.join_key_map.get(key, key) for key in definition(view).keys}
    stem = projection.name_alias or view.name
    version = projection.version_tag
    prefix = f"{stem}:" if version is None else f"{stem}@v{version}:"  # as Feast's name_to_use
    # Out of its registry, Feast counts the join keys among the features.
    features = [ref.removeprefix(prefix) for ref in refs if ref.startswith(prefix)]
    columns = {name: f"{stem}__{name}" if full_names else name for name in features if name not in keys}
    return _Asked(view, keys, columns)


def _refuse_clashes(entities: pa.Table, asked: Sequence[_Asked]) -> None:
    there = set(entities.column_names)
    for each in asked:
        if missing := sorted(set(each.keys.values()) - there):
            raise HistoryError(
                f"feature view {each.view.name!r}: expected its join keys in entity_df, got no {', '.join(missing)}"
            )
    for each in asked:
        if twice := sorted(set(each.columns.values()) & there):
            raise HistoryError(
                f"feature view {each.view.name!r}: {', '.join(twice)} would be there twice; ask with "
                "full_feature_names=True, or rename the columns of entity_df"
            )
        there |= set(each.columns.values())


def _table(entities: pd.DataFrame) -> pa.Table:
    try:
        return pa.Table.from_pandas(entities, preserve_index=False)
    except (pa.ArrowException, TypeError) as exc:
        raise HistoryError(f"entity_df: expected each column to be of one type: {exc}") from exc


def _time_of(entities: pd.DataFrame) -> str:
    for name in TIMES:
        if name in entities:
            return name
    found = [str(name) for name in entities if pd.api.types.is_datetime64_any_dtype(entities[name])]
    if len(found) != 1:
        raise EntityTimestampInferenceException(TIMES[0])
    return found[0]


@contextmanager
def _client(url: str, timeout: int | None) -> Iterator[Client]:
    try:
        client = clickhouse_connect.get_client(dsn=url, send_receive_timeout=timeout or TIMEOUT_S)
    except ClickHouseError as exc:
        raise HistoryError(f"no ClickHouse answers at {url.rpartition('@')[2]}, offline_store.url: {exc}") from exc
    try:
        yield client
    finally:
        client.close()


def _listed(unknown: dict[str, object]) -> str:
    return f" and {', '.join(sorted(unknown))}" if unknown else ""
