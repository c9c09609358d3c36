"""The scoring job: a prediction for every request, with the features it was given.

    requests ──┬─ as-of:  features and model version of its own event time ─┐
               │          (temporal joins)                                  ├─▶ inference ─▶ predictions.<model>
               ├─ latest: the newest in the online store ───────────────────┘   (ONNX, in batches; sketches them)
               │          (read in batches)
               └─ undecodable, late ─▶ <topic>.dlq, <topic>.late

Which model answers is data too: as-of, ``models.control`` is joined like any feature, so a new model takes over without
a restart and a replay makes the same predictions; latest, it is followed as it comes.
"""

from pathlib import Path

from feast.types import FeastType
from pyflink.table import StatementSet, StreamTableEnvironment

from features.compiler.flink import sql_type
from features.compiler.repo import Repo
from features.compiler.service import ModelInputs, column_of, prediction_topic, time_of
from features.compiler.topics import feature_topic, join_key_fields, value_fields
from jobs.features import declare_source
from jobs.inference import register_inference, register_latest_inference
from jobs.tables import Broker, avro_columns, epoch_seconds, sink, versioned_source
from schemas.topics import topic

__all__ = ["build"]

ONLINE_STORE = "online/online.db"


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
    """
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


def declare_versions(environment: StreamTableEnvironment, broker: Broker, inputs: ModelInputs) -> None:
    """Declare what requests are joined with: the features of each view, and the model in charge."""
    for view in inputs.views:
        keys = [field.name for field in join_key_fields(view)]
        environment.execute_sql(versioned_source(broker, f"features_{view.name}", feature_topic(view), keys))
    environment.execute_sql(versioned_source(broker, "control", topic("models.control"), ["model"]))


def as_of(inputs: ModelInputs) -> str:
    """Each request with the newest feature rows, and the model version, of its own event time."""
    # The planner needs an equality between columns to join by; a literal it folds away, this it does not.
    asked = f"SELECT *, REPLACE(`kafka_topic`, `kafka_topic`, '{inputs.model}') AS `model` FROM {inputs.request_source}"
    request = f"{asked}_events"
    columns = [
        f"r.`{inputs.request_id}` AS `request_id`",
        "r.`rowtime`",
        "r.`model`",
        "COALESCE(c.`version`, 'prior') AS `model_version`",
        "COALESCE(c.`uri`, '') AS `model_uri`",
        *(f"CAST(r.`{name}` AS DOUBLE) AS `{name}`" for name in inputs.numeric),
        *(f"r.`{name}`" for name in inputs.categorical),
    ]
    joins = ["LEFT JOIN control FOR SYSTEM_TIME AS OF r.`rowtime` AS c ON r.`model` = c.`model`"]
    for view in inputs.views:
        alias = f"v_{view.name}"
        columns.append(f"{alias}.`event_time` AS `{time_of(view.name)}`")
        columns += [f"{alias}.`{f.name}` AS `{column_of(view.name, f.name)}`" for f in value_fields(view)]
        on = " AND ".join(f"{_asked(f.name, f.dtype)} = {alias}.`{f.name}`" for f in join_key_fields(view))
        joins.append(f"LEFT JOIN features_{view.name} FOR SYSTEM_TIME AS OF r.`rowtime` AS {alias} ON {on}")
    return "SELECT " + ", ".join(columns) + f"\nFROM ({request}) AS r\n" + "\n".join(joins)


# Whole seconds, rounded down: the promise is a little weaker than it could be.
WATERMARK_SECONDS = f"COALESCE({epoch_seconds('CURRENT_WATERMARK(`rowtime`)')}, 0)"


def inferred(inputs: ModelInputs) -> str:
    """Every seen request with its probability; the last row of a batch also carries the batch's sketch."""
    arguments = ", ".join(f"`{name}`" for name in ("model_version", "model_uri", inputs.prior, *inputs.columns))
    call = f"infer(`request_id`, {epoch_seconds('`rowtime`')}, {WATERMARK_SECONDS}, {arguments})"
    kept = [name for name in avro_columns(prediction_topic(inputs).schema) if name not in _COMPUTED]
    names = ", ".join(f"`{name}`" for name in kept)
    return f"SELECT {names}, {_ANSWERED}\nFROM (SELECT *, {call} AS `answer` FROM seen)"


def answered_from_store(inputs: ModelInputs, keys: list[str]) -> str:
    """Every request with what the online store had for it; nothing is joined, so nothing waits for a watermark."""
    asked = [
        f"`{inputs.request_id}` AS `request_id`",
        "`rowtime`",
        *(f"CAST(`{name}` AS DOUBLE) AS `{name}`" for name in inputs.numeric),
        *(f"`{name}`" for name in inputs.categorical),
        *(f"CAST(`{name}` AS {_key_types(inputs)[name]}) AS `key_{name}`" for name in keys),
    ]
    arguments = ", ".join(f"`{name}`" for name in (*inputs.numeric, *inputs.categorical, *(f"key_{k}" for k in keys)))
    call = f"infer(`request_id`, {epoch_seconds('`rowtime`')}, {WATERMARK_SECONDS}, {arguments})"
    read = []
    for view in inputs.views:
        time = time_of(view.name)
        read.append(f"TO_TIMESTAMP_LTZ(`answer`.`{time}`, 3) AS `{time}`")
        read += [f"`answer`.`{c}` AS `{c}`" for c in (column_of(view.name, f.name) for f in value_fields(view))]
    names = ", ".join(f"`{name}`" for name in ("request_id", *inputs.numeric, *inputs.categorical))
    return (
        f"SELECT {names}, '{inputs.model}' AS `model`, `answer`.`model_version` AS `model_version`, "
        f"{', '.join(read)}, {_ANSWERED}\n"
        f"FROM (SELECT *, {call} AS `answer` FROM (SELECT {', '.join(asked)} FROM {inputs.request_source}_events))"
    )


_ANSWERED = (
    "CAST(`rowtime` AS TIMESTAMP_LTZ(3)) AS `event_time`, "
    "TO_TIMESTAMP_LTZ(1000 * `answer`.`watermark_seconds`, 3) AS `watermark`, "
    "`answer`.`probability` AS `probability`, `answer`.`sketch_rows` AS `sketch_rows`, `answer`.`sketch` AS `sketch`"
)
_COMPUTED = {"event_time", "watermark", "probability", "sketch_rows", "sketch"}


def _asked(name: str, dtype: FeastType) -> str:
    return f"CAST(r.`{name}` AS {sql_type(dtype)})"


def _key_types(inputs: ModelInputs) -> dict[str, str]:
    return {field.name: sql_type(field.dtype) for view in inputs.views for field in join_key_fields(view)}
