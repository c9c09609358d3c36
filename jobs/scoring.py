"""The scoring job: a prediction for every request, with the features it was given.

    requests ──┬─ as-of:  features and model version of its own event time ─┐
               │          (temporal joins)                                  ├─▶ inference ─▶ predictions.<model>
               ├─ latest: the newest in the online store ───────────────────┘   (ONNX, in batches; sketches them)
               │          (read in batches)
               └─ undecodable, late ─▶ <topic>.dlq, <topic>.late

Which model answers is data too: as-of, ``models.control`` is joined like any feature, so a new model takes over without
a restart and a replay makes the same predictions; latest, it is followed as it comes.
"""

from dataclasses import replace
from pathlib import Path

from pyflink.table import StatementSet, StreamTableEnvironment

from features.compiler.definition import definition
from features.compiler.repo import Repo
from features.compiler.service import ModelInputs, prediction_topic
from features.compiler.topics import feature_topic, join_key_fields
from jobs.features import declare_source
from jobs.inference import register_inference, register_latest_inference
from jobs.scoring_sql import answered_from_store, as_of, inferred
from jobs.segmenting import planned
from jobs.tables import Broker, avro_columns, sink, versioned_source
from schemas.topics import topic

__all__ = ["build"]

ONLINE_STORE = "online/online.db"
ALIGNMENT = "2 d"


def build(
    environment: StreamTableEnvironment, broker: Broker, repo: Repo, inputs: ModelInputs, mode: str, home: Path
) -> StatementSet:
    """The job's statements: predictions, and the requests that cannot be used.

    Parameters
    ----------
    environment, broker, repo, inputs
    mode : {"as-of", "latest"}
    home : Path
        State directory, which holds the online store.

    Raises
    ------
    monitors.segments.SegmentError
        Where the service's segments are none.
    """
    planned(inputs)  # a wrong tag is told before a job runs
    if mode == "as-of":
        broker = _paced(broker, inputs)
    statements = environment.create_statement_set()
    declare_source(environment, statements, broker, repo.kafka_source(inputs.request_source), shift_ms=0)
    if mode == "latest":
        keys = register_latest_inference(environment, "infer", inputs, broker.servers, home / ONLINE_STORE)
        environment.execute_sql(f"CREATE TEMPORARY VIEW scored AS {answered_from_store(inputs, keys)}")
    else:
        declare_versions(environment, broker, inputs)
        register_inference(environment, "infer", inputs)
        environment.execute_sql(f"CREATE TEMPORARY VIEW seen AS {as_of(inputs)}")
        environment.execute_sql(f"CREATE TEMPORARY VIEW scored AS {inferred(inputs)}")

    predictions = prediction_topic(inputs)
    environment.execute_sql(sink(broker, "predictions", predictions))
    logged = ", ".join(f"`{name}`" for name in avro_columns(predictions.schema))
    statements.add_insert_sql(f"INSERT INTO predictions SELECT {logged}, `event_time` FROM scored")
    return statements


def _paced(broker: Broker, inputs: ModelInputs) -> Broker:
    """The same broker with watermarks in steps, and topics closer together.

    At every watermark a temporal join sorts all the versions it holds of a key and goes through all the requests that
    wait for it: in a replay, days of them. As-of waits for the slowest view's next boundary anyway; steps of half its
    slide add at most that half. Measured on a year of flights: 57 s of processor time with these, 86 s with steps of
    an hour and topics up to 5 d apart.
    """
    hops = [definition(view).hop_ms for view in inputs.views]
    step_ms = max(hops, default=0) // 2 // 1000 * 1000
    return replace(broker, step_ms=step_ms, align=broker.align and ALIGNMENT, align_ms=300)


def declare_versions(environment: StreamTableEnvironment, broker: Broker, inputs: ModelInputs) -> None:
    """Declare what requests are joined with: the features of each view, and the model in charge."""
    for view in inputs.views:
        keys = [field.name for field in join_key_fields(view)]
        environment.execute_sql(versioned_source(broker, f"features_{view.name}", feature_topic(view), keys))
    environment.execute_sql(versioned_source(broker, "control", topic("models.control"), ["model"]))
