"""A real Flink session cluster of two processes, from the distribution inside the PyFlink wheel."""

import json
import os
import re
import shutil
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compose.local.formats import flink_home, format_jar
from compose.local.home import Home, PlatformError, write_text
from compose.local.jars import jars
from compose.local.java import java_command, java_home
from compose.local.services import HOST, Service
from features import READ_BEFORE

__all__ = [
    "SLOTS",
    "FlinkPorts",
    "client_environ",
    "cluster_jars",
    "flink_services",
    "latest_checkpoint",
    "saved_state",
]

SLOTS = 6
JOBMANAGER_HEAP_MB = 384
# Of the TaskManager: Flink's own share of heap and direct memory is 128 MB each.
TASK_HEAP_MB = 576
TASK_OFF_HEAP_MB = 128
NETWORK_MB = 96
MANAGED_MB = 384  # buffers of window aggregates, of which the features job has two dozen, a share for each
METASPACE_MB = 384
_FRAMEWORK_MB = 128
_OVERHEAD_MB = 192
TASKMANAGER_HEAP_MB = _FRAMEWORK_MB + TASK_HEAP_MB
TASKMANAGER_DIRECT_MB = _FRAMEWORK_MB + TASK_OFF_HEAP_MB + NETWORK_MB

# A planner lives for one submission: what the second compiler makes better code of is over before that has paid. For
# the three jobs of the flights the first compiler alone takes 31 s of processor time on a slow core, both take 57 s.
_PLANNER = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSS}{UTC}Z %-5p %c{1} - %m%n
# A Kafka client prints its whole configuration each time one is made, and a checkpoint a second is no news.
logger.kafka.name = org.apache.kafka
logger.kafka.level = WARN
logger.checkpoints.name = org.apache.flink.runtime.checkpoint.CheckpointCoordinator
logger.checkpoints.level = WARN
logger.pekko.name = org.apache.pekko
logger.pekko.level = WARN
logger.python.name = PythonWorker
logger.python.level = INFO
"""


@dataclass(frozen=True)
class FlinkPorts:
    """Ports that must stay the same when a process is restarted; the others are free ones each time."""

    rest: int
    rpc: int


def cluster_jars() -> list[Path]:
    """Archives every job may use: Python functions, the Kafka connector, Avro, Headwater's format."""
    return [*sorted((flink_home() / "opt").glob("flink-python-*.jar")), *jars("flink"), format_jar()]


def flink_services(home: Home, ports: FlinkPorts, on_restart: Callable[[], object] | None = None) -> list[Service]:
    """JobManager and TaskManager as services of the platform.

    Parameters
    ----------
    home : Home
    ports : FlinkPorts
    on_restart : function, optional
        Called when a JobManager that died is back, which then knows no job.
    """
    url = f"http://{HOST}:{ports.rest}"
    environ = {"FLINK_PLUGINS_DIR": str(flink_home() / "plugins"), "FLINK_CONF_DIR": str(home.path("flink", "conf"))}
    jobmanager = Service(
        name="jobmanager",
        argv=lambda: _jobmanager(home, ports),
        env=environ,
        ready=lambda: "taskmanagers" in _get(f"{url}/overview"),
        on_restart=on_restart,
        endpoint=url,
    )
    taskmanager = Service(
        name="taskmanager",
        argv=lambda: _taskmanager(home, ports),
        env=environ,
        ready=lambda: _get(f"{url}/overview").get("slots-total", 0) >= SLOTS,
        stop_timeout_s=5,
        endpoint=f"{SLOTS} slots",
    )
    return [jobmanager, taskmanager]


def client_environ(home: Home) -> dict[str, str]:
    """Environment of a process that submits jobs with PyFlink: our Java, cluster settings and archives.

    The archives go on the class path of the client's gateway and lie on the cluster's already, so that no job carries
    a copy of its own. ``HADOOP_CLASSPATH`` is PyFlink's one way to extend that class path.
    """
    return {
        **READ_BEFORE,
        "JAVA_HOME": str(java_home()),
        # Else PyFlink may run a job's functions in this client, as for a cluster of its own, and die with it.
        "_python_worker_execution_mode": "process",
        "FLINK_CONF_DIR": str(home.path("flink", "conf")),
        "FLINK_LOG_DIR": str(home.path("flink", "log")),
        "HADOOP_CLASSPATH": os.pathsep.join(map(str, cluster_jars())),
        "FLINK_ENV_JAVA_OPTS": " ".join([*_module_options(), *_PLANNER, "-Duser.timezone=UTC"]),
    }


def saved_state(home: Home, job_id: str) -> Path:
    """Where a job saves its state when it is stopped; Flink then deletes its checkpoints."""
    return home.path("flink", "savepoints", job_id)


def latest_checkpoint(home: Home, job_id: str) -> Path | None:
    """The newest complete checkpoint a job left behind, or what it saved in the end, to start it again from."""
    for each in saved_state(home, job_id).glob("*/_metadata"):
        return each.parent
    complete = home.path("flink", "checkpoints", job_id).glob("chk-*/_metadata")
    return max((each.parent for each in complete), key=lambda path: int(path.name[4:]), default=None)


def _get(url: str) -> dict[str, int]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=2) as response:
        found: dict[str, int] = json.load(response)
    return found


def _settings(home: Home, ports: FlinkPorts, role: str) -> dict[str, object]:
    """Settings of one process. Jobs take theirs from here too, through their client, unless they say otherwise."""
    return {
        "jobmanager.rpc.address": HOST,
        "jobmanager.rpc.port": ports.rpc,
        "jobmanager.bind-host": HOST,
        "rest.address": HOST,
        "rest.bind-address": HOST,
        "rest.port": ports.rest,
        "taskmanager.host": HOST,
        "taskmanager.bind-host": HOST,
        "taskmanager.numberOfTaskSlots": SLOTS,
        "taskmanager.cpu.cores": os.cpu_count() or 1,
        # All of it is spelt out: it is Flink's start script, not run here, that would derive one from another.
        "taskmanager.memory.framework.heap.size": f"{_FRAMEWORK_MB}m",
        "taskmanager.memory.framework.off-heap.size": f"{_FRAMEWORK_MB}m",
        "taskmanager.memory.jvm-metaspace.size": f"{METASPACE_MB}m",
        "taskmanager.memory.jvm-overhead.min": f"{_OVERHEAD_MB}m",
        "taskmanager.memory.jvm-overhead.max": f"{_OVERHEAD_MB}m",
        "taskmanager.memory.task.heap.size": f"{TASK_HEAP_MB}m",
        "taskmanager.memory.task.off-heap.size": f"{TASK_OFF_HEAP_MB}m",
        "taskmanager.memory.network.min": f"{NETWORK_MB}m",
        "taskmanager.memory.network.max": f"{NETWORK_MB}m",
        "taskmanager.memory.managed.size": f"{MANAGED_MB}m",
        "io.tmp.dirs": home.path("flink", "tmp", role),
        "parallelism.default": 1,
        # State is small and lives on the heap; Python workers take memory of their own, not Flink's.
        "state.backend.type": "hashmap",
        "python.fn-execution.memory.managed": "false",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "execution.checkpointing.dir": home.path("flink", "checkpoints").as_uri(),
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": 2,
        "execution.checkpointing.tolerable-failed-checkpoints": 10,
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "10 s",
        "restart-strategy.exponential-delay.reset-backoff-threshold": "1 min",
        # A killed process is noticed by two failed calls, in about 2 s; the timeout is for one that hangs, and long
        # enough for a machine that is short of processor time.
        "heartbeat.interval": "1 s",
        "heartbeat.rpc-failure-threshold": 2,
        "heartbeat.timeout": "15 s",
        "task.cancellation.timeout": "30 s",
        "classloader.check-leaked-classloader": "false",
        "table.local-time-zone": "UTC",
    }


def _module_options() -> list[str]:
    """What Flink must be let into of the Java modules, as its own distribution says."""
    text = (flink_home() / "conf" / "config.yaml").read_text()
    found = re.search(r"^ +all: (--add-.*)$", text, re.MULTILINE)
    if found is None:
        raise PlatformError(f"No env.java.opts.all in {flink_home() / 'conf' / 'config.yaml'}: reinstall apache-flink.")
    return found[1].split()


def _process(home: Home, ports: FlinkPorts, role: str, main: str, options: Sequence[str]) -> list[str]:
    """Write the configuration of one process and return its command."""
    # What a killed process left, unpacked archives above all, would pile up.
    scratch = home.path("flink", "tmp", role)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    # Of its own, since Flink knows no setting per process; clients use conf, which is the JobManager's.
    conf = home.path("flink", "conf")
    log4j = conf / "log4j.properties"
    write_text(log4j, _LOGGING)
    write_text(conf / "log4j-cli.properties", _LOGGING.replace("level = INFO", "level = WARN"))
    settings: Mapping[str, object] = _settings(home, ports, role)
    if role != "jobmanager":
        conf = conf / role
        conf.mkdir(exist_ok=True)
    write_text(conf / "config.yaml", "".join(f"{key}: {json.dumps(str(value))}\n" for key, value in settings.items()))
    libraries = sorted((flink_home() / "lib").glob("*.jar"), key=lambda jar: jar.name.startswith("flink-dist"))
    return java_command(
        main,
        [*libraries, *cluster_jars()],
        options=(
            *options,
            *_module_options(),
            "-XX:+UseSerialGC",
            "-Xshare:auto",
            "-XX:+ExitOnOutOfMemoryError",
            "-Duser.timezone=UTC",
            f"-Djava.io.tmpdir={scratch}",
            f"-Dlog.file={home.log_file(role)}",  # the web page shows it
            f"-Dlog4j2.configurationFile={log4j.as_uri()}",
        ),
        arguments=("--configDir", str(conf)),
    )


def _jobmanager(home: Home, ports: FlinkPorts) -> list[str]:
    return _process(
        home,
        ports,
        "jobmanager",
        "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
        # It compiles no hot loops: the first compiler alone starts faster and keeps less code.
        ["-Xms128m", f"-Xmx{JOBMANAGER_HEAP_MB}m", "-XX:MaxMetaspaceSize=256m", "-XX:TieredStopAtLevel=1"],
    )


def _taskmanager(home: Home, ports: FlinkPorts) -> list[str]:
    return _process(
        home,
        ports,
        "taskmanager",
        "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
        [
            "-Xms256m",
            f"-Xmx{TASKMANAGER_HEAP_MB}m",
            f"-XX:MaxDirectMemorySize={TASKMANAGER_DIRECT_MB}m",
            f"-XX:MaxMetaspaceSize={METASPACE_MB}m",
        ],
    )
