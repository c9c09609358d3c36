"""From a retraining event to one training run and its decision.

``python -m jobs.retraining.consumer --kafka HOST:PORT --clickhouse URL --home DIRECTORY``

:class:`jobs.retraining.retrainer.Retrainer` carries incidents out, :func:`run` feeds it. The consumer group gives the
events to one process at a time; one that was cut off and comes back is fenced by its transactional id; and whatever
either has begun, the backend has one run an incident. With ``--regions regions.yaml --region NAME`` this is one of
several regions, which vote for the one that carries a model's incidents out: see :mod:`jobs.retraining.member`.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from features.compiler.inputs import read_inputs
from jobs.kafka import BrokerError, FencedError, Publish, TopicLog, Writer, decode, reader
from jobs.retraining import member
from jobs.retraining.backends.base import BackendError
from jobs.retraining.backends.chosen import load_backend
from jobs.retraining.backends.handover import Results
from jobs.retraining.backends.launch import Forking, Spawning
from jobs.retraining.backends.local import LocalBackend
from jobs.retraining.backends.remote import RemoteBackend
from jobs.retraining.claims import Alone, Claims
from jobs.retraining.payload import REPO, Places, Sources
from jobs.retraining.regions import RegionsError, load_regions
from jobs.retraining.retrainer import EVENTS, SUBMISSIONS, Retrainer
from monitors.policy import DEFAULT_POLICY, PolicyError, load_policy
from schemas.codec import DecodeError

__all__ = ["main", "run"]

GROUP = "headwater-retraining"
LATER = ("mlflow", "sqlalchemy", "alembic", "skl2onnx", "onnxruntime", "features.compiler.repo", "jobs.parity")
TRAINER = ("jobs.training:main", LATER)


class _Progress:
    """Offsets of events under way: what may be committed is what lies before the first that is not settled."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int, int], str] = {}
        self._next: dict[tuple[str, int], int] = {}

    def begin(self, place: tuple[str, int], offset: int, incident_id: str) -> None:
        self._under_way[(*place, offset)] = incident_id
        self._next[place] = offset + 1

    def done(self, active: set[str]) -> list[TopicPartition]:
        self._under_way = {key: each for key, each in self._under_way.items() if each in active}
        first = dict(self._next)
        for topic_name, part, offset in self._under_way:
            first[topic_name, part] = min(first[topic_name, part], offset)
        return [TopicPartition(name, part, offset) for (name, part), offset in first.items()]


def run(
    kafka: str,
    make: Callable[[Callable[[Sequence[Publish]], None], Claims], Retrainer],
    stopped: Callable[[], bool],
    log: Callable[[Mapping[str, Any]], None],
) -> None:
    """Take retraining events as long as the group gives them, and carry them out.

    Parameters
    ----------
    kafka : str
        ``host:port``.
    make : callable
        From a way to publish, and what ``submissions`` says, to a :class:`Retrainer`; called each time the group gives
        us the events.
    stopped : callable
    log : callable

    Raises
    ------
    FencedError
        Where another process has taken over.
    BrokerError
    """
    consumer = reader(kafka, GROUP, session_timeout_ms=6000, max_poll_interval_ms=300_000)
    is_owner = False
    retrainer: Retrainer | None = None

    def on_assign(_: Consumer, partitions: Sequence[TopicPartition]) -> None:
        nonlocal is_owner
        is_owner = bool(partitions)  # who waits its turn is given none, and must not fence the one whose turn it is

    def on_revoke(*_: Any) -> None:
        nonlocal is_owner, retrainer
        is_owner, retrainer = False, None

    consumer.subscribe([EVENTS], on_assign=on_assign, on_revoke=on_revoke)
    progress, committed = _Progress(), list[TopicPartition]()
    try:
        while not stopped():
            messages = consumer.consume(1, 0.1) + consumer.consume(100, 0)
            if not is_owner:
                continue
            if retrainer is None:
                # 1. Who had the events before can write no more; what they wrote is all there.
                writer = Writer(kafka, GROUP)
                claims = _claims(kafka)
                retrainer, progress, committed = make(writer.publish, claims), _Progress(), []
                log({"state": "owner", "epoch": retrainer.office.epoch})
            # 2. Events become claims, claims runs, runs decisions.
            _take(retrainer, progress, messages, log)
            retrainer.tick()
            # 3. Only what is settled is behind us.
            if (offsets := progress.done(retrainer.active)) != committed:
                try:
                    consumer.commit(offsets=offsets, asynchronous=False)
                    committed = offsets
                except KafkaException as exc:  # the events come again, and change nothing then
                    log({"state": "not committed", "error": str(exc)})
    finally:
        consumer.close()


def _claims(kafka: str) -> Claims:
    submissions = TopicLog(kafka, [SUBMISSIONS])
    found = Claims(record for _, record in submissions.to_end())
    submissions.close()
    return found


def _take(
    retrainer: Retrainer, progress: _Progress, messages: list[Any], log: Callable[[Mapping[str, Any]], None]
) -> None:
    for each in messages:
        if each.error() is not None and each.error().fatal():
            raise BrokerError(f"expected retraining events, got {each.error()}")
        if each.error() is not None or each.value() is None:
            continue
        try:
            event = decode(EVENTS, each.value())
        except DecodeError as exc:
            log({"undecodable": f"{each.topic()}-{each.partition()}@{each.offset()}", "error": str(exc)})
            continue
        progress.begin((str(each.topic()), int(each.partition())), int(each.offset()), event["incident_id"])
        retrainer.on_event(event)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    given = os.environ.get
    parser = argparse.ArgumentParser(prog="jobs.retraining.consumer", description=(__doc__ or "").splitlines()[0])
    for name, metavar in (("kafka", "HOST:PORT"), ("clickhouse", "URL"), ("home", "DIRECTORY")):
        default = given(f"HEADWATER_{name.upper()}")
        parser.add_argument(f"--{name}", default=default, required=default is None, metavar=metavar)
    parser.add_argument("--policy", default=DEFAULT_POLICY, help="YAML; default: the one of the flights")
    parser.add_argument("--mlflow", help="tracking URI; default: sqlite under the home directory")
    parser.add_argument("--repo", type=Path, default=REPO, help="Feast repo of the models; default: the flights")
    parser.add_argument("--inputs", type=Path, help="what the models read, JSON; default: inputs.json of the home")
    parser.add_argument("--regions", type=Path, metavar="FILE", help="of several regions: YAML, see the README")
    parser.add_argument("--region", metavar="NAME", help="which of them this is")
    chosen = given("HEADWATER_BACKEND")
    parser.add_argument(
        "--backend", type=Path, default=chosen, metavar="FILE", help="where training runs; default: here"
    )
    parser.add_argument("--command", nargs=argparse.REMAINDER, help="what trains, default: ours; comes last")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when told to stop, 1 where Kafka or the policy fails, 3 when superseded by another consumer."""
    args = _arguments(argv)
    stops: list[int] = []

    def stopped() -> bool:
        return bool(stops)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: stops.append(number))
    home = Path(args.home).absolute()
    mlflow_uri = args.mlflow or f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
    places = Places(args.clickhouse, mlflow_uri, str(home / "models"), str(args.repo))
    backend: RemoteBackend | LocalBackend | None = None
    try:
        if args.backend:
            backend = load_backend(args.backend, Results(mlflow_uri))
        else:
            backend = LocalBackend(home / "runs", Spawning(args.command) if args.command else Forking(*TRAINER))
        policy = load_policy(args.policy)
        sources = Sources(args.kafka, policy, places, read_inputs(args.inputs or home / "inputs.json"))

        def make(publish: Callable[[Sequence[Publish]], None], claims: Claims) -> Retrainer:
            office = Alone(claims.newest_epoch + 1)
            return Retrainer(backend, sources, publish, _print, claims, office, concurrency=policy.concurrency)

        if args.regions:
            several, models = load_regions(args.regions), tuple(sources.inputs)
            member.run(several, args.region, backend, sources, stopped, _print, models, policy.concurrency)
        else:
            run(args.kafka, make, stopped, _print)
    except (BrokerError, BackendError, PolicyError, RegionsError, OSError) as exc:
        print(f"retraining: {exc}", file=sys.stderr)  # noqa: T201
        return 3 if isinstance(exc, FencedError) else 1
    finally:
        if backend is not None:
            backend.close()
    return 0


def _print(line: Mapping[str, Any]) -> None:
    print(json.dumps({"at": round(time.time(), 3), **line}), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
