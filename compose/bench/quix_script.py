"""The features of ``headwater bench features`` in Quix Streams. A script of its own, in an environment of its own.

``uv run --no-project --isolated --with quixstreams --with fastavro python compose/bench/quix_script.py JSON``. Hopping
windows as its documentation has them, final ones, closed by the time of the partition, written as JSON; exactly once,
state in RocksDB with changelog topics, as is its default. Event time is the record's, less the millisecond that makes
windows [start, end) into (start, end]. Prints ``{"seconds", "messages"}``: from the first record done to the last
commit.
"""

import io
import json
import sys
import time
from typing import Any

__all__ = ["main"]


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Process so many records of a topic and stop.

    Parameters
    ----------
    order : dict
        kafka, topic, rows (a topic), folder, schema, windows_ms, slide_ms, messages.
    """
    from quixstreams import Application

    done, began = 0, 0.0

    def processed(_topic: str, _partition: int, _offset: int) -> None:
        nonlocal done, began
        done += 1
        if done == 1:
            began = time.perf_counter()
        if done == order["messages"]:
            app.stop()

    app = Application(
        broker_address=order["kafka"],
        consumer_group=order["rows"],
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        state_dir=order["folder"],
        on_message_processed=processed,
        loglevel="ERROR",
    )
    _declare(app, order)
    app.run()
    return {"seconds": time.perf_counter() - began, "messages": done - 1}


def _declare(app: Any, order: dict[str, Any]) -> None:
    """From the topic through the windows to the rows."""
    from fastavro import parse_schema, schemaless_reader
    from quixstreams.dataframe.windows import Count, Mean, Sum
    from quixstreams.models.serializers import Deserializer

    schema = parse_schema(order["schema"])

    class Wire(Deserializer):
        """Avro behind a header of five bytes, which Quix reads only with a registry."""

        def __call__(self, value: bytes, ctx: Any) -> Any:
            return schemaless_reader(io.BytesIO(value[5:]), schema, None)

    def event_ms(_value: Any, _headers: Any, timestamp: float, _kind: Any) -> int:
        return int(timestamp) - 1

    reading = {"key_deserializer": "bytes", "value_deserializer": Wire(), "timestamp_extractor": event_ms}
    payments = app.dataframe(app.topic(order["topic"], **reading))
    sink = app.topic(order["rows"], key_serializer="bytes", value_serializer="json")
    for window_ms in order["windows_ms"]:
        if window_ms == order["slide_ms"]:  # which it does not call hopping
            found = payments.tumbling_window(window_ms, name=f"w{window_ms}")
        else:
            found = payments.hopping_window(window_ms, order["slide_ms"], name=f"w{window_ms}")
        found = found.agg(sum=Sum("amount"), count=Count("amount"), mean=Mean("amount"))
        found.final(closing_strategy="partition").to_topic(sink)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))  # noqa: T201
