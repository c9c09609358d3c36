"""What monitors made of windows, read from ``drift.windows``."""

from collections.abc import Iterable
from typing import Any

from confluent_kafka import Message

from compose.control import WINDOWS_TOPIC
from jobs.reading import TopicReader
from schemas.codec import Codec, DecodeError
from schemas.topics import TOPICS

__all__ = ["Windows"]


class Windows:
    """What ``drift.windows`` has said since the last call.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    """

    def __init__(self, kafka: str) -> None:
        self._codec = Codec(TOPICS[WINDOWS_TOPIC].schema, TOPICS[WINDOWS_TOPIC].schema_id)
        self._reader = TopicReader(kafka, [WINDOWS_TOPIC])

    def news(self) -> Iterable[dict[str, Any]]:
        """Records that came since the last call, but for those that do not decode."""
        found: list[dict[str, Any]] = []

        def take(messages: list[Message]) -> None:
            for each in messages:
                value = each.value()
                if value is None:
                    continue
                try:
                    found.append(self._codec.decode(value))
                except DecodeError:
                    continue

        self._reader.read(take)
        return found

    def close(self) -> None:
        """Leave the broker."""
        self._reader.close()
