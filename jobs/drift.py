"""The drift job: sketches and losses in event-time windows, against the reference of the model that answered.

    predictions ─┬─ sketches ────────────────────┐
                 └─▶ join labels ─▶ hourly loss ─┴─▶ monitors (keyed by model) ─┬─▶ drift.windows
    labels ────────────────────────▲                                           └─▶ drift.alerts
"""

from pathlib import Path

from pyflink.table import StatementSet, StreamTableEnvironment

from features.compiler.repo import Repo
from features.compiler.service import ModelInputs, prediction_topic
from jobs.evaluation import evaluate
from jobs.features import declare_source
from jobs.tables import Broker, encoded_sink, travelling_source

__all__ = ["build"]

OUTPUTS = ("drift.windows", "drift.alerts")


def build(
    environment: StreamTableEnvironment, broker: Broker, repo: Repo, inputs: ModelInputs, home: Path
) -> StatementSet:
    """The job's statements: windows, alerts, and dead letters of the labels."""
    statements = environment.create_statement_set()
    declare_source(environment, statements, broker, repo.kafka_source(inputs.label_source))
    environment.execute_sql(travelling_source(broker, "predictions", prediction_topic(inputs)))
    environment.execute_sql(f"CREATE TEMPORARY VIEW labelled AS {labelled(inputs)}")
    environment.execute_sql(f"CREATE TEMPORARY VIEW observed AS {OBSERVED}")

    stream = environment.to_data_stream(environment.from_path("observed"))
    findings = evaluate(stream, inputs, home / "models")
    environment.create_temporary_view("findings", environment.from_data_stream(findings))
    for name in OUTPUTS:
        table = name.replace(".", "_")
        environment.execute_sql(encoded_sink(broker, table, name))
        statements.add_insert_sql(
            f"INSERT INTO {table} SELECT `key`, `value`, TO_TIMESTAMP_LTZ(`time_ms`, 3) FROM findings "
            f"WHERE `topic` = '{name}'"
        )
    return statements


def labelled(inputs: ModelInputs) -> str:
    """Predictions with their outcome and log loss, at the time the outcome became known.

    The loss is in whole millionths: a sum of integers does not depend on the order in which rows come.
    """
    clipped = "LEAST(GREATEST(p.`probability`, 1e-15), 1e0 - 1e-15)"
    loss = f"-LN(CASE WHEN {_of_label(inputs)} THEN {clipped} ELSE 1e0 - {clipped} END)"
    return (
        "SELECT p.`model`, p.`model_version`, l.`rowtime`, "
        f"CAST(ROUND(1e6 * {loss}, 0) AS BIGINT) AS `loss_micro`, "
        f"CASE WHEN {_of_label(inputs)} THEN 1 ELSE 0 END AS `positive`, "
        "CAST(ROUND(1e6 * p.`probability`, 0) AS BIGINT) AS `probability_micro`\n"
        f"FROM predictions AS p JOIN {inputs.label_source}_events AS l ON p.`request_id` = l.`{inputs.request_id}`\n"
        # Labels come up to days after the question; what is later than this is not waited for.
        "AND l.`rowtime` BETWEEN p.`rowtime` AND p.`rowtime` + INTERVAL '7' DAY"
    )


OBSERVED = """
SELECT `model`, `model_version`, `rowtime`, `sketch`,
  CAST(0 AS BIGINT) AS `end_ms`, CAST(0 AS BIGINT) AS `labels`, CAST(0 AS BIGINT) AS `positives`,
  CAST(0 AS BIGINT) AS `loss_micro`, CAST(0 AS BIGINT) AS `probability_micro`
FROM predictions WHERE `sketch` IS NOT NULL
UNION ALL
SELECT `model`, `model_version`, window_time AS `rowtime`, CAST(NULL AS BYTES) AS `sketch`,
  1000 * CAST(TIMESTAMPDIFF(SECOND, TO_TIMESTAMP_LTZ(0, 3), CAST(window_end AS TIMESTAMP_LTZ(3))) AS BIGINT),
  COUNT(*), SUM(`positive`), SUM(`loss_micro`), SUM(`probability_micro`)
FROM TABLE(TUMBLE(TABLE labelled, DESCRIPTOR(`rowtime`), INTERVAL '1' HOUR))
GROUP BY `model`, `model_version`, window_start, window_end, window_time
"""


def _of_label(inputs: ModelInputs) -> str:
    return f"({inputs.label})"
