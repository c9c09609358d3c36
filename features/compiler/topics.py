"""The Kafka topic, the schema and the key a feature view gives rise to.

Everything is derived from the view's names and types alone, in sorted order: Feast's registry returns the fields of a
stream feature view in an order that changes from process to process (``StreamFeatureView.to_proto`` goes through a
``set``) and mixes the join keys into the features, and the schema id must be the same wherever it is computed.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from feast import Field
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.types import (
    Array,
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    PrimitiveFeastType,
    String,
    UnixTimestamp,
)

from schemas.codec import Codec, derived_id
from schemas.topics import Topic

__all__ = [
    "EVENT_TIME",
    "TIMESTAMP",
    "WATERMARK",
    "UnsupportedViewError",
    "avro_type",
    "entity_codec",
    "entity_schema",
    "feature_codec",
    "feature_schema",
    "feature_topic",
    "join_key_fields",
    "value_fields",
]

EVENT_TIME = "event_time"
WATERMARK = "watermark"
TIMESTAMP: Mapping[str, str] = MappingProxyType({"type": "long", "logicalType": "timestamp-millis"})

_PRIMITIVES: dict[PrimitiveFeastType, Any] = {
    Float64: "double",
    Float32: "float",
    Int64: "long",
    Int32: "int",
    String: "string",
    Bool: "boolean",
    Bytes: "bytes",
    UnixTimestamp: dict(TIMESTAMP),
}
_AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class UnsupportedViewError(ValueError):
    """A feature view that cannot become a topic. The message names the view, the field and what would do."""


def avro_type(dtype: FeastType) -> Any:
    """The Avro type of a Feast type, not yet nullable.

    Raises
    ------
    UnsupportedViewError
        For a type without a fixed Avro form here.
    """
    if isinstance(dtype, Array) and isinstance(dtype.base_type, PrimitiveFeastType):
        return {"type": "array", "items": avro_type(dtype.base_type)}
    if isinstance(dtype, PrimitiveFeastType) and dtype in _PRIMITIVES:
        found = _PRIMITIVES[dtype]
        return dict(found) if isinstance(found, dict) else found
    known = ", ".join(str(each) for each in _PRIMITIVES)
    raise UnsupportedViewError(f"expected one of {known} or an Array of one, got {dtype}")


def join_key_fields(view: FeatureView) -> list[Field]:
    """The view's join keys with their types, sorted by name.

    Raises
    ------
    UnsupportedViewError
        Where a view has no entity, or its join keys are not in its schema (before ``feast apply`` Feast knows an
        entity only by name, so the type has to be there).
    """
    fields = sorted((f for f in view.entity_columns if f.name != DUMMY_ENTITY_ID), key=lambda field: field.name)
    if len(fields) < len(view.entities) or not fields:
        raise UnsupportedViewError(
            f"feature view {view.name!r}: expected the join key of each of its entities {view.entities} in its schema, "
            f"got {[f.name for f in fields]}; add Field(name=<join key>, dtype=...) to schema="
        )
    return fields


def value_fields(view: FeatureView) -> list[Field]:
    """The view's features without its join keys, sorted by name."""
    keys = {field.name for field in view.entity_columns}
    return sorted((field for field in view.features if field.name not in keys), key=lambda field: field.name)


def entity_schema(view: FeatureView) -> dict[str, Any]:
    """Avro record of the join keys, sorted by name, none nullable: views on the same entity share it."""
    return {
        "type": "record",
        "name": "Entity",
        "namespace": "headwater.entities",
        "fields": [_field(view, each, nullable=False) for each in join_key_fields(view)],
    }


def feature_schema(view: FeatureView) -> dict[str, Any]:
    """Avro record of ``features.<view>``: join keys, ``event_time``, ``watermark``, features; only time not null."""
    _check_name(view, view.name)
    return {
        "type": "record",
        "name": view.name,
        "namespace": "headwater.features",
        "fields": [
            *(_field(view, each, nullable=True) for each in join_key_fields(view)),
            {"name": EVENT_TIME, "type": dict(TIMESTAMP)},
            {"name": WATERMARK, "type": ["null", dict(TIMESTAMP)], "default": None},
            *(_field(view, each, nullable=True) for each in value_fields(view)),
        ],
    }


def feature_topic(view: FeatureView) -> Topic:
    """The topic the rows of a view are written to: ``features.<view>``, keyed by the entity."""
    schema = feature_schema(view)
    return Topic(f"features.{view.name}", derived_id(schema), key="", definition=schema)


def feature_codec(view: FeatureView) -> Codec:
    """Codec of the values of ``features.<view>``."""
    schema = feature_schema(view)
    return Codec(schema, derived_id(schema))


def entity_codec(view: FeatureView) -> Codec:
    """Codec of the keys of ``features.<view>``: the join keys alone."""
    schema = entity_schema(view)
    return Codec(schema, derived_id(schema))


def _field(view: FeatureView, field: Field, nullable: bool) -> dict[str, Any]:
    _check_name(view, field.name)
    if field.name in (EVENT_TIME, WATERMARK):
        raise UnsupportedViewError(f"feature view {view.name!r}: {field.name!r} is taken, call the field otherwise")
    try:
        kind = avro_type(field.dtype)
    except UnsupportedViewError as exc:
        raise UnsupportedViewError(f"feature view {view.name!r}, field {field.name!r}: {exc}") from None
    if nullable:
        return {"name": field.name, "type": ["null", kind], "default": None}
    return {"name": field.name, "type": kind}


def _check_name(view: FeatureView, name: str) -> None:
    if not _AVRO_NAME.fullmatch(name):
        raise UnsupportedViewError(
            f"feature view {view.name!r}: expected a name of letters, digits and _ not starting with a digit (Avro), "
            f"got {name!r}"
        )
