"""MirrorMaker 2 beside each region: it brings the region what the others say, exactly once and committed only.

One runs near each target, which pulls: where a link is cut, each side goes on alone, and its own mirror has the rest.
"""

from collections.abc import Sequence

from compose.local.home import Home, write_text
from compose.local.jars import jars
from compose.local.java import java_command
from compose.local.services import HOST, Service, tcp_ready
from jobs.retraining.regions import MIRRORED, Region, Regions

__all__ = ["mirror_service"]

MAIN = "org.apache.kafka.connect.mirror.MirrorMaker"
HEAP_MB = 256
GROUPS = "headwater.*"
TOPICS_SECONDS = 10
_JVM = (
    "-Xms64m",
    f"-Xmx{HEAP_MB}m",
    "-XX:+UseSerialGC",
    "-Xshare:auto",
    "-XX:+ExitOnOutOfMemoryError",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.connect.mirror.MirrorMaker=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)
_INTERNAL = ("", "checkpoints.topic.", "heartbeats.topic.", "offset-syncs.topic.")
_STORAGE = ("offset.storage.", "status.storage.", "config.storage.")


def mirror_service(
    home: Home, regions: Regions, name: str, port: int, topics: Sequence[str] = MIRRORED, host: str = HOST
) -> Service:
    """What brings a region the topics of all others.

    Parameters
    ----------
    home : Home
    regions : Regions
    name : str
        Of the region that is brought them.
    port : int
        Where the mirror's own nodes talk to each other, which they have to for exactly-once.
    topics : sequence of str
    host : str
        Address to listen at.
    """
    config = home.path("mirror", "mirror.properties")

    properties = _properties(regions, name, f"{host}:{port}", topics)

    def prepare() -> list[str]:
        write_text(config, "".join(f"{key} = {value}\n" for key, value in properties))
        arguments = (str(config), "--clusters", name)
        return java_command(
            "org.apache.kafka.connect.mirror.MirrorMaker", jars("kafka"), options=_JVM, arguments=arguments
        )

    return Service(
        name="mirror", argv=prepare, depends_on=("kafka",), ready=tcp_ready(port, host), endpoint=f"{host}:{port}"
    )


def _properties(regions: Regions, name: str, address: str, topics: Sequence[str]) -> list[tuple[str, object]]:
    others = [each for each in regions.regions if each.name != name]
    found: list[tuple[str, object]] = [
        ("clusters", ", ".join(regions.names)),
        ("dedicated.mode.enable.internal.rest", "true"),
        ("listeners", f"http://{address}"),
        ("exactly.once.source.support", "enabled"),
        ("tasks.max", 2),
        ("refresh.topics.interval.seconds", TOPICS_SECONDS),
        ("refresh.groups.interval.seconds", TOPICS_SECONDS),
        ("emit.checkpoints.interval.seconds", TOPICS_SECONDS),
        ("emit.heartbeats.interval.seconds", 1),
        # A topic of few records would never have its offsets translated: strimzi-kafka-operator#9609.
        ("offset.lag.max", 0),
        # A region that is cut off goes on mirroring where it can write.
        ("offset-syncs.topic.location", "target"),
        *((f"{each}replication.factor", 1) for each in (*_INTERNAL, *_STORAGE)),
    ]
    for region in regions.regions:
        found += _client(region)
    for other in others:
        flow = f"{other.name}->{name}"
        found += [
            (f"{flow}.enabled", "true"),
            (f"{flow}.topics", ", ".join(each.replace(".", "\\\\.") for each in topics)),
            (f"{flow}.groups", GROUPS),
            # What a transaction has written that was aborted was never said.
            (f"{other.name}.consumer.isolation.level", "read_committed"),
        ]
    return found


def _client(region: Region) -> list[tuple[str, object]]:
    settings = [(f"{region.name}.{key}", value) for key, value in region.settings.items()]
    return [(f"{region.name}.bootstrap.servers", region.kafka), *settings]
