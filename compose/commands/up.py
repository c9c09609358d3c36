"""``headwater up``."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from compose.commands.signals import stop_on_signals
from compose.commands.tables import services_table
from compose.local.home import Home, PlatformError
from compose.local.platform import PORT_NAMES, START_TIMEOUT_S, AlreadyRunningError, Platform, Running
from compose.local.services import free_ports

__all__ = ["command"]

BACKEND = "HEADWATER_BACKEND"  # the retrainer reads it
REGIONS_MAX = 4
REGIONS_START_S = 400.0


@click.command()
@click.option("--detach", "-d", is_flag=True, help="Return once everything is ready and leave it running.")
@click.option("--regions", type=click.IntRange(2, REGIONS_MAX), help="Run so many regions, and a witness beside them.")
@click.option(
    "--backend",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="Train where this YAML file says; default: as processes of this machine.",
)
def command(detach: bool, regions: int | None, backend: Path | None) -> None:
    """Start the local platform and keep it running.

    Starts Kafka, a Flink cluster, ClickHouse and Headwater's own services on free ports of this machine, restarts
    whatever of them dies, and stops them all on Ctrl-C. The first run fetches some 75 MB of Java archives; later ones
    need no network.

    \b
    HEADWATER_HOME          where all state is kept (default: ~/.local/state/headwater)
    HEADWATER_KAFKA_PORT    ask for a certain port; likewise HEADWATER_FLINK_PORT,
                            HEADWATER_CLICKHOUSE_PORT and HEADWATER_PAGE_PORT

    Where it runs already, says so and changes nothing.

    With --regions, each region is a platform of its own under HEADWATER_HOME/regions/, with its own Kafka, and
    MirrorMaker 2 between them; commands speak to the one whose directory HEADWATER_HOME names.

    --backend names Kubernetes, Airflow, Kubeflow, SageMaker, Vertex AI, Databricks or Step Functions; the README shows
    the files.
    """
    console = Console()
    if backend is not None:
        os.environ[BACKEND] = str(backend)
    home = Home.find()
    if (running := Running.find(home)) is not None:
        console.print(f"The platform runs already in {home.root} (process {running.pid}). `headwater down` stops it.")
        console.print(services_table(running))
        return
    try:
        (_detached if detach else _foreground)(home, console, regions)
    except AlreadyRunningError as exc:  # two at the same moment, and the other was first
        console.print(str(exc), soft_wrap=True)


def _foreground(home: Home, console: Console, regions: int | None) -> None:
    """Run until interrupted."""
    stop_on_signals()
    platform: Platform | None = None
    try:
        began = time.monotonic()
        # First what fails at once, and what shows a progress bar of its own.
        Platform(home).prepare()
        free_ports(PORT_NAMES)
        with console.status("Reading the feature definitions"):
            platform = _platform(home, regions)
        platform.start()
        with console.status("Starting") as status:
            timeout_s = REGIONS_START_S if regions else START_TIMEOUT_S
            platform.wait(timeout_s, on_tick=lambda facts: status.update(_progress(facts)))
        if (running := Running.read(home)) is not None:
            console.print(services_table(running))
        took = time.monotonic() - began
        console.print(f"Up after {took:.1f} s, state in {home.root}. Ctrl-C stops everything.", soft_wrap=True)
        while platform.supervisor.alive:
            time.sleep(0.5)
        raise PlatformError(f"The supervisor ended unexpectedly; {home.log_file('supervisor')} says why.")
    except KeyboardInterrupt:
        console.print("Stopping. Ctrl-C again kills what is left.")
    finally:
        if platform is not None:
            platform.stop()
    console.print("Stopped.")


def _platform(home: Home, regions: int | None) -> Platform:
    """The whole platform. To derive its topics Feast is imported, which takes a while: not for a command's help."""
    if regions:
        from compose.regions import regions_platform

        return regions_platform(home, regions)
    from compose.services import headwater_platform
    from features.compiler.repo import RepoError

    try:
        return headwater_platform(home)
    except RepoError as exc:
        raise PlatformError(f"The feature definitions cannot be read: {exc}") from exc


def _progress(facts: dict[str, Any]) -> str:
    waiting = ", ".join(f"{name} ({each['state']})" for name, each in facts.items() if each["state"] != "ready")
    return f"Starting {waiting}"


def _detached(home: Home, console: Console, regions: int | None) -> None:
    """Run ``headwater up`` as a process of its own and wait until it is ready."""
    # Here and not there, so that downloads show their progress and failures their reason.
    Platform(home).prepare()
    log = home.log_file("up")
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "compose.cli", "up", *(("--regions", str(regions)) if regions else ())],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + (REGIONS_START_S if regions else START_TIMEOUT_S)
    try:
        with console.status("Starting") as status:
            while (running := Running.find(home)) is None or running.state == "starting":
                if child.poll() not in (None, 0):  # 0: another `up` was first
                    raise PlatformError(log.read_text(errors="replace").strip().removeprefix("Error: "))
                if time.monotonic() > deadline:
                    raise PlatformError(f"The platform is not up after {START_TIMEOUT_S:.0f} s; see {log}.")
                if running is not None:
                    status.update(_progress(running.services))
                time.sleep(0.1)
    except BaseException:
        child.terminate()
        child.wait()
        raise
    console.print(services_table(running))
    console.print(f"Up, state in {home.root}. `headwater down` stops it.", soft_wrap=True)
