"""One look at ourselves and at what we are sent, from outside of Flink, and the alerts that it leads to."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import KafkaException

from compose.local.home import PlatformError
from compose.local.platform import Endpoints
from compose.past import NO_TABLE
from features.compiler.changes import UPSERT, changelog
from features.compiler.repo import Repo
from features.compiler.service import ModelInputs, model_inputs
from features.compiler.sources import stream_source
from jobs import parity_alerts, topic_alerts
from jobs.kafka import BrokerError, TopicLog, Writer
from jobs.parity import NothingToCompareError, Verification, newest_ms, verify
from jobs.reading import client_of
from jobs.topic_alerts import TopicLook, look_at
from jobs.topic_counts import newest_event_ms
from monitors.incidents import Alert
from monitors.policy import PRIOR
from monitors.topics import TopicSettings

__all__ = ["SETTLED_MS", "Look", "look", "look_at_topics", "topics_of"]

SETTLED_MS = 60_000
"""Of the newest requests: what they were given may not be archived yet."""


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes
    ----------
    start_ms, end_ms : int
        Event time, [start, end); UTC epoch milliseconds.
    verification : Verification or None
        None where no request of the span has an answer that is archived.
    nothing : str
        Why there is none.
    topics : list of TopicLook
    alerts : list of Alert
        What is new.
    """

    start_ms: int
    end_ms: int
    verification: Verification | None
    nothing: str
    topics: list[TopicLook]
    alerts: list[Alert]

    def wrong(self, threshold: float) -> bool:
        """Whether anything is; see :func:`jobs.parity_alerts.alerts`."""
        found = self.verification
        ours = found is not None and bool(found.parity.exceeds(threshold) or found.behind(threshold))
        return ours or any(each.finding.fired for each in self.topics)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        compared = self.verification.as_dict() if self.verification else {"nothing": self.nothing}
        return {
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            **compared,
            "topics": [each.as_dict() for each in self.topics],
            "alerts": [each.record() for each in self.alerts],
        }


def look(
    at: Endpoints,
    repo: Repo,
    service: str,
    mode: str,
    last_ms: int,
    stale_ms: int,
    threshold: float,
) -> Look:
    """Verify the newest requests, count the topics, and tell subscribers of ``drift.alerts`` what is new.

    Parameters
    ----------
    at : Endpoints
    repo : Repo
    service : str
        Feature service of the model.
    mode : {"as-of", "latest"}
        How scoring reads its features.
    last_ms : int
        Of request time; the newest minute is left to the next look. Where none was answered yet, of what topics have.
    stale_ms : int
        How long before its request a row has to be in the online store.
    threshold : float
        See :func:`jobs.parity_alerts.alerts`.

    Raises
    ------
    PlatformError
        Where there is nothing to look at, or Kafka or ClickHouse does not answer.
    """
    try:
        inputs = model_inputs(repo, service)
        topics = topics_of(repo, inputs)
        answered, found, nothing = _verified(at, repo, inputs, mode, last_ms, stale_ms)
        newest = newest_event_ms(at.kafka, topics) if answered is None else answered
        if newest is None:
            raise PlatformError(f"{nothing} Nor is there a record in {', '.join(topics)}.")
        end_ms = newest - SETTLED_MS
        with closing(TopicLog(at.kafka, ["drift.alerts"])) as log:
            told = [record for _, record in log.to_end()]
        version = found.model_version if found else PRIOR
        looks, given = look_at_topics(at.kafka, inputs.model, version, topics, end_ms, last_ms, told)
        if found:
            given = parity_alerts.alerts(inputs.model, f"parity-{threshold:g}", found, told, threshold) + given
        if given:
            with closing(Writer(at.kafka, f"headwater-parity-{inputs.model}")) as writer:
                writer.publish(parity_alerts.publications(given))
    except ClickHouseError as exc:
        raise PlatformError(f"{at.clickhouse} does not answer: {exc}") from exc
    except (BrokerError, KafkaException) as exc:
        raise PlatformError(f"{at.kafka} does not answer: {exc}.") from exc
    except ValueError as exc:  # of a view whose history cannot be read
        raise PlatformError(f"{exc}.") from exc
    return Look(end_ms - last_ms, end_ms, found, nothing, looks, given)


def topics_of(repo: Repo, inputs: ModelInputs) -> dict[str, bool]:
    """Topics that a model's service reads, and whether records with a key and no value delete a row there."""
    sources = [repo.kafka_source(inputs.request_source), repo.kafka_source(inputs.label_source)]
    sources += [stream_source(view) for view in inputs.views]
    return {each.kafka_options.topic: changelog(each) == UPSERT for each in sources}


def look_at_topics(
    kafka: str,
    model: str,
    version: str,
    topics: Mapping[str, bool],
    end_ms: int,
    last_ms: int,
    told: list[dict[str, Any]],
) -> tuple[list[TopicLook], list[Alert]]:
    """Count topics, and what they lead to beside what has been told.

    Raises
    ------
    jobs.kafka.BrokerError
    """
    looks = look_at(kafka, model, topics, end_ms, last_ms, told)
    policy = f"topics-{TopicSettings.chance:g}"
    return looks, topic_alerts.alerts(model, version, policy, (end_ms - last_ms, end_ms), looks, told)


def _verified(
    at: Endpoints, repo: Repo, inputs: ModelInputs, mode: str, last_ms: int, stale_ms: int
) -> tuple[int | None, Verification | None, str]:
    """Time of the newest answer, what the newest ones were given; and why where there is nothing to compare."""
    nothing = f"Nothing has been asked of {inputs.model} yet."
    newest = None
    try:
        with closing(client_of(at.clickhouse)) as client:
            newest = newest_ms(client, inputs.model)
            if newest is None:
                return None, None, nothing
            end_ms = newest - SETTLED_MS
            found = verify(client, at.kafka, repo, mode, end_ms - last_ms, end_ms, inputs.model, stale_ms)
            return newest, found, ""
    except NothingToCompareError as exc:
        return newest, None, f"No request of the newest {last_ms / 60_000:,.0f} minutes has settled: {exc}."
    except ClickHouseError as exc:
        if NO_TABLE not in str(exc):
            raise
        return newest, None, nothing
