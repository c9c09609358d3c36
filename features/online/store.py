"""What the pusher needs of an online store, and the store that a Feast repo names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from features.online.rows import Row, RowStore, StoreError

__all__ = ["FeatureRows", "open_store"]


class FeatureRows(Protocol):
    """Feature rows, the newest of each entity. Satisfied by ``RowStore``, ``RedisRows`` and ``FeastRows``.

    Attributes
    ----------
    refused : int
        Rows that could not be taken, ever; each batch of them is in the log.
    """

    refused: int

    def ensure(self, view: str) -> None:
        """Get ready for the rows of a view.

        Raises
        ------
        StoreError
            Where that cannot be.
        """

    def clear(self, view: str) -> None:
        """Forget every row of a view: they are of another definition.

        Raises
        ------
        StoreBusyError
            Not all are gone; try again after the time it says.
        StoreError
            Where there is no such view.
        """

    def write(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Write rows of any number of views; one older than what is there is left out.

        Raises
        ------
        StoreBusyError, StoreFullError
            Not all was written; write all of it again after the time it says.
        StoreError
            Not all was written, and trying again will not help.
        """

    def close(self) -> None:
        """Let go of connections."""


def open_store(repo: Path) -> FeatureRows:
    """The online store of a Feast repo, for rows of its stream feature views.

    Parameters
    ----------
    repo : Path
        The folder with ``feature_store.yaml``.

    Raises
    ------
    StoreError
        Where the repo cannot be read.
    """
    from feast.infra.online_stores.helpers import get_online_store_from_config
    from feast.infra.online_stores.redis import RedisOnlineStoreConfig
    from feast.repo_config import FeastConfigError, load_repo_config

    from features.compiler.repo import RepoError, load_repo
    from features.online.embedded import EmbeddedOnlineStore, EmbeddedOnlineStoreConfig
    from features.online.feast_rows import FeastRows
    from features.online.redis_store import RedisRows

    try:
        read = load_repo(repo)
        config = load_repo_config(read.path, read.path / "feature_store.yaml")
    except (RepoError, FeastConfigError) as exc:
        raise StoreError(str(exc)) from exc
    if isinstance(config.online_store, RedisOnlineStoreConfig):
        return RedisRows(config, read.views)
    if isinstance(config.online_store, EmbeddedOnlineStoreConfig):
        store: RowStore = EmbeddedOnlineStore().rows(config)
        return store
    return FeastRows(config, get_online_store_from_config(config.online_store), read.views)
