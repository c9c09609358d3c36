"""The scoring job's SQL: requests with their features, and the call that answers them."""

from feast.types import FeastType

from features.compiler.flink import sql_type
from features.compiler.service import ModelInputs, column_of, prediction_topic, time_of
from features.compiler.topics import join_key_fields, value_fields
from jobs.tables import avro_columns, epoch_seconds

__all__ = ["answered_from_store", "as_of", "inferred"]


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
    return f"SELECT {names}, {_answered(inputs)}\nFROM (SELECT *, {call} AS `answer` FROM seen)"


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
        f"{', '.join(read)}, {_answered(inputs)}\n"
        f"FROM (SELECT *, {call} AS `answer` FROM (SELECT {', '.join(asked)} FROM {inputs.request_source}_events))"
    )


def _answered(inputs: ModelInputs) -> str:
    return f"{_ANSWERED}, `answer`.`segments` AS `segments`" if inputs.segments else _ANSWERED


_ANSWERED = (
    "CAST(`rowtime` AS TIMESTAMP_LTZ(3)) AS `event_time`, "
    "TO_TIMESTAMP_LTZ(1000 * `answer`.`watermark_seconds`, 3) AS `watermark`, "
    "`answer`.`probability` AS `probability`, `answer`.`sketch_rows` AS `sketch_rows`, `answer`.`sketch` AS `sketch`"
)
_COMPUTED = {"event_time", "watermark", "probability", "sketch_rows", "sketch", "segments"}


def _asked(name: str, dtype: FeastType) -> str:
    return f"CAST(r.`{name}` AS {sql_type(dtype)})"


def _key_types(inputs: ModelInputs) -> dict[str, str]:
    return {field.name: sql_type(field.dtype) for view in inputs.views for field in join_key_fields(view)}
