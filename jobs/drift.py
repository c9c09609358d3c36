"""The drift job: sketches of inputs and losses in event-time windows, against the reference of the model that answered.

predictions ─┬─ sketches of inputs ─┐
             └─ answers, in batches ┼──▶ monitors (keyed by model) ─┬─▶ drift.windows
labels ────── labels, in batches ───┘                               └─▶ drift.alerts
"""

from collections.abc import Sequence
from pathlib import Path

from pyflink.table import StatementSet, StreamTableEnvironment

from features.compiler.repo import Repo
from features.compiler.service import ModelInputs, prediction_topic
from jobs.evaluation import FINDINGS, evaluate, register_packing
from jobs.features import declare_source
from jobs.segmenting import planned
from jobs.tables import Broker, encoded_sink, epoch_seconds, travelling_source
from monitors.settings import MonitorSettings

__all__ = ["build"]


def build(
    environment: StreamTableEnvironment,
    broker: Broker,
    repo: Repo,
    inputs: ModelInputs,
    home: Path,
    settings: MonitorSettings,
) -> StatementSet:
    """The job's statements: windows, alerts, and the labels that cannot be used."""
    statements = environment.create_statement_set()
    declare_source(environment, statements, broker, repo.kafka_source(inputs.label_source), shift_ms=0)
    cut = planned(inputs).reads
    read = (*PREDICTED, *cut, *(["segments"] if cut else []))
    environment.execute_sql(travelling_source(broker, "predictions", prediction_topic(inputs), read))
    register_packing(environment, home / "models" / inputs.model, cut)
    environment.execute_sql(f"CREATE TEMPORARY VIEW observed AS {observed(inputs, cut)}")

    findings = evaluate(environment.to_data_stream(environment.from_path("observed")), home / "models", settings)
    environment.create_temporary_view("findings", environment.from_data_stream(findings))
    for name in FINDINGS:
        table = name.replace(".", "_")
        environment.execute_sql(encoded_sink(broker, table, name))
        statements.add_insert_sql(
            f"INSERT INTO {table} SELECT `key`, `value`, TO_TIMESTAMP_LTZ(`time_ms`, 3) FROM findings "
            f"WHERE `topic` = '{name}'"
        )
    return statements


PREDICTED = ("request_id", "event_time", "watermark", "model", "model_version", "probability", "sketch")


def observed(inputs: ModelInputs, cut: Sequence[str]) -> str:
    """What the monitors are told, a row a batch: inputs, answers and labels; `cut` are the columns of segments."""
    seconds = epoch_seconds("`rowtime`")
    arguments = ", ".join(f"`{name}`" for name in ("model_version", "request_id", "probability", "seconds", *cut))

    def sketched(kind: str, column: str) -> str:
        return f"""
SELECT '{kind}' AS `kind`, `model`, `model_version`, `rowtime`, 1000 * {seconds} AS `time_ms`, `{column}` AS `payload`
FROM predictions WHERE `{column}` IS NOT NULL
UNION ALL
"""

    tables = sketched("inputs", "sketch") + (sketched("segments", "segments") if cut else "")
    return f"""{tables}
SELECT 'answers' AS `kind`, `model`, `model_version`, `rowtime`, 1000 * `seconds` AS `time_ms`, `payload` FROM (
  SELECT *, packed_answers({arguments}) AS `payload` FROM (
    SELECT *, {seconds} AS `seconds` FROM predictions
  )
) WHERE `payload` IS NOT NULL
UNION ALL
SELECT 'labels' AS `kind`, '{inputs.model}' AS `model`, '' AS `model_version`, `rowtime`,
  1000 * `seconds` AS `time_ms`, `payload` FROM (
  SELECT *, packed_labels(`request_id`, `positive`, `seconds`) AS `payload` FROM (
    SELECT `{inputs.request_id}` AS `request_id`, CASE WHEN {inputs.label} THEN 1 ELSE 0 END AS `positive`,
      {seconds} AS `seconds`, `rowtime`
    FROM {inputs.label_source}_events
  )
) WHERE `payload` IS NOT NULL
"""
