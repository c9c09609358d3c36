"""What a Kafka source of a Feast repo says of its topic."""

import json
from datetime import timedelta
from typing import Any

from feast import StreamFeatureView
from feast.data_format import AvroFormat
from feast.data_source import KafkaSource

from features.compiler.topics import UnsupportedViewError
from schemas.codec import ANY_ID

__all__ = ["avro_schema", "schema_id", "stream_source", "watermark_delay_ms"]


def stream_source(view: StreamFeatureView) -> KafkaSource:
    """The Kafka source a view reads.

    Raises
    ------
    UnsupportedViewError
        Where it reads another kind of source.
    """
    source = view.stream_source
    if not isinstance(source, KafkaSource):
        raise UnsupportedViewError(f"feature view {view.name!r}: expected a KafkaSource, got {type(source).__name__}")
    return source


def avro_schema(source: KafkaSource) -> dict[str, Any]:
    """The Avro schema of a source's records.

    Raises
    ------
    UnsupportedViewError
        Where its ``message_format`` is not Avro.
    """
    form = source.kafka_options.message_format
    if not isinstance(form, AvroFormat):
        raise UnsupportedViewError(f"source {source.name!r}: expected an AvroFormat, got {type(form).__name__}")
    found: dict[str, Any] = json.loads(form.schema_json)
    return found


def schema_id(source: KafkaSource) -> int:
    """The id before each record: the tag ``schema_id``; :data:`schemas.codec.ANY_ID` without one.

    What Feast means by Avro is the bare body, what a registry's clients write has a header with an id of the
    registry's. A repo that says nothing of it may be either.
    """
    return int(source.tags.get("schema_id") or ANY_ID)


def watermark_delay_ms(source: KafkaSource) -> int:
    """How late a record may come and still count."""
    return (source.kafka_options.watermark_delay_threshold or timedelta(0)) // timedelta(milliseconds=1)
