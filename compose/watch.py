"""One look at ourselves: what the newest requests were given, computed again, and the alerts that it leads to."""

from contextlib import closing

from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import KafkaException

from compose.local.home import PlatformError
from compose.local.platform import Endpoints
from compose.past import NO_TABLE
from features.compiler.repo import Repo
from features.compiler.service import model_inputs
from jobs.kafka import BrokerError, TopicLog, Writer
from jobs.parity import NothingToCompareError, Verification, newest_ms, verify
from jobs.parity_alerts import alerts, publications
from jobs.reading import client_of
from monitors.incidents import Alert

__all__ = ["SETTLED_MS", "look"]

SETTLED_MS = 60_000
"""Of the newest requests: what they were given may not be archived yet."""


def look(
    at: Endpoints,
    repo: Repo,
    service: str,
    mode: str,
    last_ms: int,
    stale_ms: int,
    threshold: float,
) -> tuple[Verification, list[Alert]]:
    """Verify the newest requests, and tell subscribers of ``drift.alerts`` what is new.

    Parameters
    ----------
    at : Endpoints
    repo : Repo
    service : str
        Feature service of the model.
    mode : {"as-of", "latest"}
        How scoring reads its features.
    last_ms : int
        Of request time; the newest minute is left to the next look.
    stale_ms : int
        How long before its request a row has to be in the online store.
    threshold : float
        See :func:`jobs.parity_alerts.alerts`.

    Raises
    ------
    PlatformError
        Where there is nothing to look at, or Kafka or ClickHouse does not answer.
    """
    model = model_inputs(repo, service).model
    nothing = f"Nothing has been asked of {model} yet."
    try:
        with closing(client_of(at.clickhouse)) as client:
            newest = newest_ms(client, model)
            if newest is None:
                raise PlatformError(nothing)
            end_ms = newest - SETTLED_MS
            found = verify(client, at.kafka, repo, mode, end_ms - last_ms, end_ms, service, stale_ms)
        with closing(TopicLog(at.kafka, ["drift.alerts"])) as log:
            told = [record for _, record in log.to_end()]
        given = alerts(model, f"parity-{threshold:g}", found, told, threshold)
        if given:
            Writer(at.kafka, f"headwater-parity-{model}").publish(publications(given))
        return found, given
    except NothingToCompareError as exc:
        raise PlatformError(f"No request of the newest {last_ms / 60_000:,.0f} minutes has settled: {exc}.") from exc
    except ClickHouseError as exc:
        raise PlatformError(nothing if NO_TABLE in str(exc) else f"{at.clickhouse} does not answer: {exc}") from exc
    except (BrokerError, KafkaException) as exc:
        raise PlatformError(f"{at.kafka} does not answer: {exc}.") from exc
    except ValueError as exc:  # of a view whose history cannot be read
        raise PlatformError(f"{exc}.") from exc
