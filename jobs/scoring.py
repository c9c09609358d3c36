"""The scoring job: a prediction for every request, with the features of its own event time.

    requests ──┬─ as of event time ─▶ features and model version ─▶ inference ─▶ predictions.<model>
               │                      (temporal joins)             (ONNX, in batches; sketches them)
               └─ undecodable ─▶ <topic>.dlq

Which model answers is data too: ``models.control`` is joined as of the request's event time like any feature, so a new
model takes over without a restart and a replay makes the same predictions.
"""

from feast.types import FeastType
from pyflink.table import StatementSet, StreamTableEnvironment

from features.compiler.flink import sql_type
from features.compiler.repo import Repo
from features.compiler.service import ModelInputs, column_of, prediction_topic, time_of
from features.compiler.topics import feature_topic, join_key_fields, value_fields
from jobs.features import declare_source
from jobs.inference import register_inference
from jobs.tables import Broker, avro_columns, epoch_seconds, sink, versioned_source
from schemas.topics import topic

__all__ = ["build"]


def build(environment: StreamTableEnvironment, broker: Broker, repo: Repo, inputs: ModelInputs) -> StatementSet:
    """The job's statements: predictions, and dead letters of the requests."""
    statements = environment.create_statement_set()
    declare_source(environment, statements, broker, repo.kafka_source(inputs.request_source), shift_ms=0)
    for view in inputs.views:
        keys = [field.name for field in join_key_fields(view)]
        environment.execute_sql(versioned_source(broker, f"features_{view.name}", feature_topic(view), keys))
    environment.execute_sql(versioned_source(broker, "control", topic("models.control"), ["model"]))

    register_inference(environment, "infer", inputs)
    environment.execute_sql(f"CREATE TEMPORARY VIEW seen AS {as_of(inputs)}")
    environment.execute_sql(f"CREATE TEMPORARY VIEW scored AS {inferred(inputs)}")

    predictions = prediction_topic(inputs)
    environment.execute_sql(sink(broker, "predictions", predictions))
    logged = ", ".join(f"`{name}`" for name in avro_columns(predictions.schema))
    statements.add_insert_sql(f"INSERT INTO predictions SELECT {logged}, `event_time` FROM scored")
    return statements


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


def inferred(inputs: ModelInputs) -> str:
    """Every seen request with its probability; the last row of a batch also carries the batch's sketch."""
    arguments = ", ".join(f"`{name}`" for name in ("model_version", "model_uri", inputs.prior, *inputs.columns))
    # Whole seconds, rounded down: the promise is a little weaker than it could be.
    watermark = f"COALESCE({epoch_seconds('CURRENT_WATERMARK(`rowtime`)')}, 0)"
    call = f"infer(`request_id`, {epoch_seconds('`rowtime`')}, {watermark}, {arguments})"
    kept = [name for name in avro_columns(prediction_topic(inputs).schema) if name not in _COMPUTED]
    names = ", ".join(f"`{name}`" for name in kept)
    return (
        f"SELECT {names}, CAST(`rowtime` AS TIMESTAMP_LTZ(3)) AS `event_time`, "
        "TO_TIMESTAMP_LTZ(1000 * `answer`.`watermark_seconds`, 3) AS `watermark`, "
        "`answer`.`probability` AS `probability`, `answer`.`sketch_rows` AS `sketch_rows`, "
        "`answer`.`sketch` AS `sketch`\n"
        f"FROM (SELECT *, {call} AS `answer` FROM seen)"
    )


_COMPUTED = {"event_time", "watermark", "probability", "sketch_rows", "sketch"}


def _asked(name: str, dtype: FeastType) -> str:
    return f"CAST(r.`{name}` AS {sql_type(dtype)})"
