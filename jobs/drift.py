"""The drift job: sketches of inputs and losses in event-time windows, against the reference of the model that answered.

predictions ─┬─ sketches of inputs ───────────────────┐
             └─▶ join labels ─▶ sketches of losses ───┴─▶ monitors (keyed by model) ─┬─▶ drift.windows
labels ────────────────────────▲                                                    └─▶ drift.alerts
"""

from pathlib import Path

from pyflink.table import StatementSet, StreamTableEnvironment

from features.compiler.repo import Repo
from features.compiler.service import ModelInputs, prediction_topic
from jobs.evaluation import FINDINGS, evaluate, register_loss_sketch
from jobs.features import declare_source
from jobs.tables import Broker, encoded_sink, epoch_seconds, travelling_source

__all__ = ["build"]


def build(
    environment: StreamTableEnvironment, broker: Broker, repo: Repo, inputs: ModelInputs, home: Path
) -> StatementSet:
    """The job's statements: windows, alerts, and dead letters of the labels."""
    statements = environment.create_statement_set()
    declare_source(environment, statements, broker, repo.kafka_source(inputs.label_source), shift_ms=0)
    environment.execute_sql(travelling_source(broker, "predictions", prediction_topic(inputs), PREDICTED))
    register_loss_sketch(environment, "loss_sketch")
    environment.execute_sql(f"CREATE TEMPORARY VIEW labelled AS {labelled(inputs)}")
    environment.execute_sql(f"CREATE TEMPORARY VIEW observed AS {OBSERVED}")

    observed = environment.to_data_stream(environment.from_path("observed"))
    findings = evaluate(observed, home / "models")
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


def labelled(inputs: ModelInputs) -> str:
    """Predictions with their outcome, at the time it became known."""
    return (
        f"SELECT p.`model`, p.`model_version`, l.`rowtime`, {epoch_seconds('l.`rowtime`')} AS `seconds`, "
        f"p.`probability`, CASE WHEN {inputs.label} THEN 1 ELSE 0 END AS `positive`\n"
        f"FROM predictions AS p JOIN {inputs.label_source}_events AS l ON p.`request_id` = l.`{inputs.request_id}`\n"
        # Labels come hours after the question, seldom a day; what is later than a week is not waited for.
        "AND l.`rowtime` BETWEEN p.`rowtime` AND p.`rowtime` + INTERVAL '7' DAY"
    )


OBSERVED = f"""
SELECT 'inputs' AS `kind`, `model`, `model_version`, `rowtime`,
  1000 * {epoch_seconds("`rowtime`")} AS `time_ms`, `sketch`
FROM predictions WHERE `sketch` IS NOT NULL
UNION ALL
SELECT 'losses' AS `kind`, `model`, `model_version`, `rowtime`, 1000 * `seconds` AS `time_ms`, `sketch`
FROM (SELECT *, loss_sketch(`model_version`, `probability`, `positive`, `seconds`) AS `sketch` FROM labelled)
WHERE `sketch` IS NOT NULL
"""
