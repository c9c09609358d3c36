"""Feature rows of many entities at once, from the embedded store to columns: what scoring reads in `latest` mode.

Feast's ``get_online_features`` makes a protobuf message of every value, which costs more than everything else together.
Here the distinct entities of a batch are read in a few statements, and their rows are decoded in native code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from feast.feature_view import FeatureView

from features.compiler.service import column_of, time_of
from features.compiler.topics import entity_codec, feature_codec, join_key_fields, value_fields
from features.online.rows import RowStore
from schemas.batch import BatchDecoder, from_frame

__all__ = ["StoredView", "ViewLookup", "stored_view"]


@dataclass(frozen=True)
class StoredView:
    """A feature view as the store knows it; plain data, for a worker that has no use for Feast.

    Attributes
    ----------
    name : str
    keys, features : tuple of str
        Join keys and features, in the order of their schemas.
    entity_schema, feature_schema : dict
    entity_id, feature_id : int
        Ids of the schemas.
    """

    name: str
    keys: tuple[str, ...]
    features: tuple[str, ...]
    entity_schema: Mapping[str, Any] = field(hash=False)
    entity_id: int
    feature_schema: Mapping[str, Any] = field(hash=False)
    feature_id: int


def stored_view(view: FeatureView) -> StoredView:
    """What the store knows of a view."""
    entity, feature = entity_codec(view), feature_codec(view)
    return StoredView(
        view.name,
        tuple(each.name for each in join_key_fields(view)),
        tuple(each.name for each in value_fields(view)),
        entity.schema,
        entity.schema_id,
        feature.schema,
        feature.schema_id,
    )


class ViewLookup:
    """Reads one view's newest rows.

    Parameters
    ----------
    store : RowStore
    view : StoredView
    """

    def __init__(self, store: RowStore, view: StoredView) -> None:
        self._store, self._view = store, view
        self._decoder = BatchDecoder(view.feature_schema, view.feature_id)

    def read(self, keys: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        """The newest feature row of each entity asked for.

        Parameters
        ----------
        keys : DataFrame, n rows
            The view's join keys.

        Returns
        -------
        dict of str to ndarray, shape (n,)
            ``<view>__<feature>`` as object, and ``<view>__event_time`` as object: UTC epoch milliseconds of the row the
            values came from. None where there is no row, where a join key is null, and where the row is of an earlier
            shape of the view.

        Raises
        ------
        features.online.rows.StoreError
        """
        known = keys.notna().all(axis=1).to_numpy()
        entities = from_frame(keys[known].reset_index(drop=True), self._view.entity_schema, self._view.entity_id)
        code, distinct = pd.factorize(np.array(entities, dtype=object))
        rows = self._store.read(self._view.name, list(distinct))
        found = [(number, *rows[entity]) for number, entity in enumerate(distinct) if entity in rows]
        decoded, bad = self._decoder.decode([value for _, _, value in found])
        dropped = {index for index, _ in bad}
        kept = [(number, time_ms) for index, (number, time_ms, _) in enumerate(found) if index not in dropped]
        # Row of `decoded` for each distinct entity; the last place, which is null, for those without one.
        place = np.full(len(distinct) + 1, len(kept), dtype=np.int64)
        place[[number for number, _ in kept]] = np.arange(len(kept))
        of_row = np.full(len(keys), len(kept), dtype=np.int64)
        of_row[known] = place[code]
        columns = {column_of(self._view.name, name): decoded.column(name).to_pylist() for name in self._view.features}
        columns[time_of(self._view.name)] = [time_ms for _, time_ms in kept]
        return {name: np.array([*values, None], dtype=object)[of_row] for name, values in columns.items()}
