"""Training sets: for each of many entities and times, the features of a service as of then.

A feature at time t is that of its view's newest row with event time <= t, unless the view's ``ttl`` says that it is too
old by then. The rows are those of :mod:`features.offline.history`: what the stream would have computed, had it run.
"""

import pyarrow as pa
from clickhouse_connect.driver.client import Client
from feast import FeatureService

from features.compiler.clickhouse import Known
from features.compiler.repo import Repo
from features.compiler.topics import EVENT_TIME, join_key_fields
from features.offline.as_of import TIMES, as_of, entity_times
from features.offline.history import HistoryError

__all__ = ["training_set"]


def training_set(
    client: Client, repo: Repo, service: FeatureService, entities: pa.Table, known: Known = "now"
) -> pa.Table:
    """The entities with the features of a service.

    Parameters
    ----------
    client : Client
        Of the archive.
    repo : Repo
    service : FeatureService
    entities : Table
        Join keys of the service's views, and a time, ``event_timestamp`` or ``event_time``; naive ones are UTC.
    known : {"now", "then"}
        Whether records count that were late for the stream.

    Returns
    -------
    Table
        The entities in their order with ``<view>__<feature>`` for each feature, null where there is none, and
        ``<view>__event_time``, the time of the row it comes from.

    Raises
    ------
    HistoryError
        Where the entities lack a column, or a view's rows cannot be computed.
    RepoError, UnsupportedViewError
        Where the service has a view that is not a stream feature view of the repo, or has no meaning here.
    """
    if (time := next((each for each in TIMES if each in entities.column_names), None)) is None:
        raise HistoryError(f"expected a column {' or '.join(TIMES)}, got {', '.join(entities.column_names)}")
    times, result = entity_times(entities, time), entities
    for projection in service.feature_view_projections:
        if projection.name not in repo.views:
            continue  # on demand, on top of the others: for Feast to compute
        view = repo.view(projection.name)
        keys = {each.name: projection.join_key_map.get(each.name, each.name) for each in join_key_fields(view)}
        if missing := sorted(set(keys.values()) - set(entities.column_names)):
            raise HistoryError(f"feature view {view.name!r}: expected its join keys in the entities, got no {missing}")
        features = [each.name for each in projection.features if each.name not in keys]
        found = as_of(client, view, entities, times, keys, features, known)
        for name in (*features, EVENT_TIME):
            result = result.append_column(f"{projection.name_alias or view.name}__{name}", found.column(name))
    return result
