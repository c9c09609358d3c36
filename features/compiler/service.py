"""What a model reads: the columns of its requests and the features of its views, from a Feast feature service.

A service says what Feast has no field for in its tags:

``requests``   name of the Kafka source whose records ask for a prediction
``request_id`` column that identifies a request; labels carry it too
``columns``    columns of the request that the model reads, comma-separated
``prior``      ``view.feature`` that answers until a first model is trained
``context``    views (comma-separated) that are reported and never raise an alarm by themselves
``segments``   how traffic is cut for its monitors: a column of texts, or ``name: condition`` (of pandas, over what the
               model reads), between semicolons; may be left out
``labels``     name of the Kafka source with the outcomes
``label``      SQL over an outcome that says whether it is positive
"""

from dataclasses import dataclass
from typing import Any

from feast import StreamFeatureView

from features.compiler.inputs import Inputs
from features.compiler.repo import Repo, RepoError
from features.compiler.sources import avro_schema, stream_source
from features.compiler.topics import EVENT_TIME, TIMESTAMP, WATERMARK, avro_type, value_fields
from schemas.codec import derived_id
from schemas.topics import Topic

__all__ = ["ModelInputs", "column_of", "model_inputs", "plain_inputs", "prediction_topic", "time_of"]


@dataclass(frozen=True)
class ModelInputs:
    """What a model reads, in order.

    Attributes
    ----------
    model : str
        Name of the model and of the feature service.
    requests, labels : str
        Topics.
    request_source, label_source : str
        Names of the Kafka sources.
    request_id : str
    label : str
        SQL over a record of ``labels``.
    numeric, categorical : tuple of str
        Request columns.
    views : tuple of StreamFeatureView
        In the service's order, the prior's view among them.
    prior : str
        Column of the prediction that answers before there is a model.
    context : frozenset of str
        Input columns that are reported and never raise an alarm by themselves.
    segments : str
        How traffic is cut, as :func:`monitors.segments.dimensions_of` reads it; empty for not at all.
    """

    model: str
    requests: str
    labels: str
    request_source: str
    label_source: str
    request_id: str
    label: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    views: tuple[StreamFeatureView, ...]
    prior: str
    context: frozenset[str]
    segments: str = ""

    @property
    def features(self) -> tuple[str, ...]:
        """Feature columns that the model reads: all but the prior."""
        names = (column_of(view.name, field.name) for view in self.views for field in value_fields(view))
        return tuple(name for name in names if name != self.prior)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every input column: numeric and categorical request columns, then features."""
        return (*self.numeric, *self.categorical, *self.features)


def column_of(view: str, feature: str) -> str:
    """Column of a prediction that holds a view's feature."""
    return f"{view}__{feature}"


def time_of(view: str) -> str:
    """Column of a prediction that holds the event time of the row a view's features came from."""
    return f"{view}__{EVENT_TIME}"


def plain_inputs(inputs: ModelInputs) -> Inputs:
    """The same as plain data."""
    feeds = {view.name: stream_source(view).kafka_options.topic for view in inputs.views}
    return Inputs(
        model=inputs.model,
        labels=inputs.labels,
        request_id=inputs.request_id,
        label=inputs.label,
        numeric=inputs.numeric,
        categorical=inputs.categorical,
        features=inputs.features,
        prior=inputs.prior,
        context=tuple(sorted(inputs.context)),
        segments=inputs.segments,
        feeds={name: feeds.get(name.partition("__")[0], inputs.requests) for name in (*inputs.columns, inputs.prior)},
    )


def model_inputs(repo: Repo, service_name: str) -> ModelInputs:
    """What the model of a feature service reads.

    Raises
    ------
    RepoError
        Where the service, a tag, a view or a source is missing.
    """
    service = repo.service(service_name)
    tags = dict(service.tags or {})
    needed = ("requests", "request_id", "columns", "prior", "labels", "label")
    if missing := [tag for tag in needed if not tags.get(tag)]:
        raise RepoError(f"feature service {service_name!r}: expected tags {', '.join(needed)}; {missing} not given")
    views = tuple(repo.view(projection.name) for projection in service.feature_view_projections)
    requests, labels = repo.kafka_source(tags["requests"]), repo.kafka_source(tags["labels"])
    kinds = _kinds(avro_schema(requests))
    columns = [name.strip() for name in tags["columns"].split(",")]
    if unknown := [name for name in [*columns, tags["request_id"]] if name not in kinds]:
        raise RepoError(f"feature service {service_name!r}: {unknown} not in topic {requests.kafka_options.topic}")
    context = {name.strip() for name in tags.get("context", "").split(",")}
    prior_view, _, prior_feature = tags["prior"].partition(".")
    return ModelInputs(
        model=service.name,
        requests=requests.kafka_options.topic,
        labels=labels.kafka_options.topic,
        request_source=requests.name,
        label_source=labels.name,
        request_id=tags["request_id"],
        label=tags["label"],
        numeric=tuple(name for name in columns if kinds[name] != "string"),
        categorical=tuple(name for name in columns if kinds[name] == "string"),
        views=views,
        prior=column_of(prior_view, prior_feature),
        context=frozenset(column_of(v.name, f.name) for v in views if v.name in context for f in value_fields(v)),
        segments=tags.get("segments", ""),
    )


def prediction_topic(inputs: ModelInputs) -> Topic:
    """The topic of a model's predictions, ``predictions.<model>``: each with every value the model saw."""

    def nullable(name: str, kind: Any) -> dict[str, Any]:
        return {"name": name, "type": ["null", kind], "default": None}

    schema: dict[str, Any] = {
        "type": "record",
        "name": inputs.model,
        "namespace": "headwater.predictions",
        "fields": [
            nullable("request_id", "string"),
            {"name": EVENT_TIME, "type": dict(TIMESTAMP)},
            nullable(WATERMARK, dict(TIMESTAMP)),
            {"name": "model", "type": "string"},
            {"name": "model_version", "type": "string"},
            {"name": "probability", "type": "double"},
            *(nullable(name, "double") for name in inputs.numeric),
            *(nullable(name, "string") for name in inputs.categorical),
        ],
    }
    for view in inputs.views:
        schema["fields"].append(nullable(time_of(view.name), dict(TIMESTAMP)))
        schema["fields"] += [nullable(column_of(view.name, f.name), avro_type(f.dtype)) for f in value_fields(view)]
    # On the last row of a scored batch: what drift detection keeps of the batch. In this topic and not in one of its
    # own, since a second sink would make Flink plan, and run, the joins and the inference twice.
    schema["fields"] += [nullable("sketch_rows", "int"), nullable("sketch", "bytes")]
    if inputs.segments:
        schema["fields"].append(nullable("segments", "bytes"))
    return Topic(f"predictions.{inputs.model}", derived_id(schema), key="request_id", definition=schema)


def _kinds(schema: dict[str, Any]) -> dict[str, str]:
    def kind(avro: Any) -> str:
        if isinstance(avro, list):
            return next(kind(each) for each in avro if each != "null")
        return str(avro["type"]) if isinstance(avro, dict) else str(avro)

    return {field["name"]: kind(field["type"]) for field in schema["fields"]}
