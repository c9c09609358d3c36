"""Feature rows into any online store that Feast knows, through its own ``online_write_batch``.

For repos whose store is not one of ours: it works, at Feast's speed, and with Feast's guarantees. Feast's sqlite store
lets an older row overwrite a newer one. Rows of an entity come in the order of their event times, so that shows only
while a batch is written again after a crash, until the newest row has come again.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from feast import StreamFeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.repo_config import RepoConfig

from features.online.embedded import EPOCH, ViewCodec, WriteRow, view_codec
from features.online.rows import Row, StoreBusyError, StoreError
from schemas.codec import DecodeError

__all__ = ["FeastRows"]

RETRY_SECONDS = 1.0
log = logging.getLogger(__name__)


class FeastRows:
    """See the module; the interface is :class:`features.online.store.FeatureRows`.

    Parameters
    ----------
    config : RepoConfig
    store : OnlineStore
    views : mapping of str to StreamFeatureView
    """

    def __init__(self, config: RepoConfig, store: OnlineStore, views: Mapping[str, StreamFeatureView]) -> None:
        self._config, self._store, self._views = config, store, views
        self.refused = 0

    def ensure(self, view: str) -> None:
        """Have Feast create what a view needs, as ``feast apply`` does.

        Raises
        ------
        StoreError
            Where the repo has no such view.
        """
        if view not in self._views:
            raise StoreError(f"expected a stream feature view of the repo, got {view!r}; submit its repo again")
        found = self._views[view]
        self._store.update(self._config, [], [found], [], [], partial=True)

    def clear(self, view: str) -> None:
        """Have Feast delete a view's rows, as it does when a view is removed, and create it again.

        Raises
        ------
        StoreBusyError
            Whatever the store says.
        """
        try:
            self._store.update(self._config, [self._views[view]], [], [], [], partial=True)
        except Exception as exc:  # any client library's own errors
            raise StoreBusyError(f"{type(self._store).__name__}: {exc!r}", RETRY_SECONDS) from exc
        self.ensure(view)

    def write(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Write rows of any number of views.

        Raises
        ------
        StoreBusyError
            Whatever the store says: it is tried again as long as the pusher has patience.
        """
        for name, each in rows.items():
            codec = view_codec(self._views[name])
            batch = [made for made in (self._made(codec, row) for row in each) if made is not None]
            if not batch:
                continue
            try:
                self._store.online_write_batch(self._config, self._views[name], batch, None)
            except Exception as exc:  # any client library's own errors
                raise StoreBusyError(f"{type(self._store).__name__}: {exc!r}", RETRY_SECONDS) from exc

    def close(self) -> None:
        """Feast's stores keep what they opened until the process ends."""

    def _made(self, codec: ViewCodec, row: Row) -> WriteRow | None:
        try:
            key, values = codec.entity_key(row[0]), codec.values(row[2], None)
        except DecodeError as exc:
            self.refused += 1
            log.warning("view %s: a row of %d ms is not of its schema: %s", codec.name, row[1], exc)
            return None
        return key, values, EPOCH + timedelta(milliseconds=row[1]), datetime.now(UTC)
