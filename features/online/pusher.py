"""Feature rows from Kafka to the online store. ``python -m features.online.pusher --topics features.a,... --path FILE``

With ``--repo DIR`` instead of ``--path``, to the store that the ``feature_store.yaml`` of a Feast repo names: Redis, or
the embedded one.

Batch by batch: read (:data:`BATCH_ROWS` records or :data:`BATCH_SECONDS`, whichever is first), keep the newest row of
each entity, write all views, then commit the offsets. Killed in between, the batch is read and written again, which
changes nothing: the store keeps the newest row whatever comes twice. So there is nothing to undo, and two pushers do no
harm.

A view that was changed begins somewhere in its topic, ``--since``. What the store holds of it when that is first heard
of is of its old definition, and would stay wherever it is newer than what the new one has of an entity. It is deleted,
and the view is pushed from where it begins; that this is done is written beside the offsets.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.online.rows import Row, RowStore, StoreBusyError, StoreError, newest, retry_while_busy
from features.online.store import FeatureRows, open_store

__all__ = ["Pusher", "PusherError", "main", "view_name"]

GROUP = "headwater-pusher"
PREFIX = "features."
BATCH_ROWS = 10_000
BATCH_SECONDS = 0.05
PATIENCE_SECONDS = 60.0
REPORT_SECONDS = 5.0
TIMEOUT_SECONDS = 30.0
_PASSING = (KafkaError._PARTITION_EOF, KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT)  # the client reconnects
_STARTING = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE)
Since = Mapping[str, Mapping[int, int]]
log = logging.getLogger("pusher")


class PusherError(RuntimeError):
    """The pusher cannot go on. The message says what stands in the way and what to do."""


class Pusher:
    """Keeps the store as new as the topics.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    store : FeatureRows
    topics : sequence of str
        ``features.<view>``.
    patience_seconds : float
        How long to wait, in all, for a store that is busy or full, before StoreBusyError goes up.
    group : str
        Under which name Kafka keeps how far it has come.
    since : mapping of str to mapping of int to int, optional
        By topic and partition the offset where the view's present definition begins.

    Raises
    ------
    PusherError
        Where a topic is not there.
    """

    def __init__(
        self,
        kafka: str,
        store: FeatureRows,
        topics: Sequence[str],
        patience_seconds: float = PATIENCE_SECONDS,
        group: str = GROUP,
        since: Since | None = None,
    ) -> None:
        self._store, self._patience_seconds, self._since = store, patience_seconds, since or {}
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka,
                # Offsets are kept under this name, but there is no membership: a killed pusher's successor need not
                # wait until the group has given up on it.
                "group.id": group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,  # tells the end where it is a transaction's marker and no record
                "queued.max.messages.kbytes": 16 << 10,
                "fetch.wait.max.ms": 50,
            }
        )
        self.counts = {"read": 0, "written": 0, "skipped": 0, "waits": 0}
        self._next: dict[tuple[str, int], int] = {}
        for name in topics:
            store.ensure(view_name(name))
        self._assign(topics)

    def step(self) -> int:
        """One batch; returns how many records it read."""
        messages = self._consumer.consume(BATCH_ROWS, BATCH_SECONDS)
        if not messages:
            return 0
        rows = newest(self._rows(messages))
        if rows:
            retry_while_busy(lambda: self._store.write(rows), self._patience_seconds, self._say)
        self._commit(messages)
        self.counts["read"] += sum(message.error() is None for message in messages)
        self.counts["written"] += sum(map(len, rows.values()))
        return len(messages)

    def lag(self) -> int:
        """Records that are in Kafka and not read yet, as far as the consumer has heard."""
        total = 0
        for (name, partition), offset in self._next.items():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(name, partition), cached=True)
            total += max(0, high - offset)
        return total

    @property
    def refused(self) -> int:
        """Records that the store could not take."""
        return self._store.refused

    def has_read(self, ends: Mapping[tuple[str, int], int]) -> bool:
        """Whether everything before these offsets has been written."""
        return all(self._next.get(place, 0) >= end for place, end in ends.items())

    def close(self) -> None:
        """Leave; what is not committed is read again by the next."""
        self._consumer.close()
        self._store.close()

    def _rows(self, messages: Sequence[Message]) -> Iterator[tuple[str, Row]]:
        for message in messages:
            if (error := message.error()) is not None:
                if error.code() in _PASSING:
                    continue
                raise PusherError(f"{message.topic()} {message.partition()}: {error}")
            key, value = message.key(), message.value()
            if key is None or value is None:  # progress rows and heartbeats
                self.counts["skipped"] += 1
                continue
            yield (message.topic() or "")[len(PREFIX) :], (bytes(key), message.timestamp()[1], value)

    def _commit(self, messages: Sequence[Message]) -> None:
        ends: dict[tuple[str, int], int] = {}
        for message in messages:
            place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
            error = message.error()
            if error is None:
                ends[place] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF and offset > self._next.get(place, 0):
                ends[place] = offset
        if ends:
            self._next |= ends
            offsets = [self._place(*place, offset) for place, offset in ends.items()]
            # Not waited for: a commit that gets lost is made good by the next, or by writing the batch again.
            self._consumer.commit(offsets=offsets, asynchronous=True)

    def _assign(self, topics: Sequence[str]) -> None:
        places: list[TopicPartition] = []
        for name in topics:
            listed = self._consumer.list_topics(name, timeout=TIMEOUT_SECONDS).topics[name]
            if listed.error is not None:
                raise PusherError(f"topic {name}: {listed.error}; create it first, or leave it out of --topics")
            places += [TopicPartition(name, partition) for partition in listed.partitions]
        committed = self._committed(places)
        for place in self._begin_anew(committed):
            low, high = self._consumer.get_watermark_offsets(place, timeout=TIMEOUT_SECONDS)
            # Beyond the end: the topic was made anew since.
            self._next[place.topic, place.partition] = place.offset if low <= place.offset <= high else low
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in self._next.items()])

    def _begin_anew(self, committed: Sequence[TopicPartition]) -> list[TopicPartition]:
        """The positions, of topics whose definition is another than when they were committed where it begins."""
        stale = {
            each.topic
            for each in committed
            if each.topic in self._since and (each.metadata or "") != self._place(each.topic, each.partition).metadata
        }
        for name in sorted(stale):
            log.info("%s: another definition begins; the rows of the one before are deleted", name)
            retry_while_busy(partial(self._store.clear, view_name(name)), self._patience_seconds, self._say)
        begins = [
            self._place(each.topic, each.partition, self._since[each.topic].get(each.partition, 0))
            for each in committed
            if each.topic in stale
        ]
        if begins:
            self._consumer.commit(offsets=begins, asynchronous=False)
        return [each for each in committed if each.topic not in stale] + begins

    def _place(self, topic: str, partition: int, offset: int = OFFSET_INVALID) -> TopicPartition:
        """A position, beside which stands where the definition began that it is of."""
        return TopicPartition(topic, partition, offset, str(self._since.get(topic, {}).get(partition, "")))

    def _committed(self, places: list[TopicPartition]) -> list[TopicPartition]:
        """Where the last pusher stopped; a broker that has only just started takes a moment to know."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return self._consumer.committed(places, timeout=TIMEOUT_SECONDS)
            except KafkaException as exc:
                if exc.args[0].code() not in _STARTING or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _say(self, exc: StoreBusyError) -> None:
        self.counts["waits"] += 1
        log.warning("%s; again in %.1f s", exc, exc.retry_after_seconds)


def view_name(topic: str) -> str:
    """The view of a topic.

    Raises
    ------
    PusherError
        For a topic that is no view's.
    """
    if not topic.startswith(PREFIX) or topic == PREFIX:
        raise PusherError(f"expected topics named {PREFIX}<view>, got {topic!r}")
    return topic[len(PREFIX) :]


def run(pusher: Pusher, stop: threading.Event) -> None:
    """Push until told to stop; a line of JSON on stdout every few seconds."""
    began = reported = time.monotonic()
    while not stop.is_set():
        pusher.step()
        now = time.monotonic()
        if now - reported >= REPORT_SECONDS:
            reported = now
            _report(pusher, now - began)
    _report(pusher, time.monotonic() - began)
    pusher.close()


def _report(pusher: Pusher, seconds: float) -> None:
    line = {
        "job": "pusher",
        "at": int(time.time() * 1e3),
        **pusher.counts,
        "refused": pusher.refused,
        "lag": pusher.lag(),
    }
    sys.stdout.write(json.dumps(line | {"seconds": round(seconds, 1)}) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pusher until SIGTERM or SIGINT.

    Returns
    -------
    int
        1 where it could not go on; the last line of the log says why.
    """
    home = os.environ.get("HEADWATER_HOME")
    parser = argparse.ArgumentParser(prog="python -m features.online.pusher", description=__doc__.split("\n\n")[0])
    parser.add_argument("--topics", required=True, help="features.<view>, separated by commas")
    parser.add_argument("--path", type=Path, default=Path(home) / "online" / "online.db" if home else None)
    parser.add_argument("--repo", type=Path, help="a Feast repo, to whose online store to write instead of --path")
    parser.add_argument("--group", default="", help="name of the project, which has offsets of its own")
    parser.add_argument("--since", default="{}", help="JSON: by topic and partition where a view's definition begins")
    parser.add_argument("--kafka", default=os.environ.get("HEADWATER_KAFKA"), help="host:port")
    options = parser.parse_args(arguments)
    if not options.kafka or not (options.path or options.repo):
        parser.error("expected --kafka and --path or --repo, or HEADWATER_KAFKA and HEADWATER_HOME")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    try:
        store = open_store(options.repo) if options.repo else RowStore(options.path)
        topics = [each for each in options.topics.split(",") if each]
        group = f"{GROUP}-{options.group}" if options.group else GROUP
        since = {name: {int(part): at for part, at in each.items()} for name, each in json.loads(options.since).items()}
        run(Pusher(options.kafka, store, topics, group=group, since=since), stop)
    except (PusherError, StoreError, KafkaException) as exc:
        log.error("%s", exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
