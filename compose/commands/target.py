"""Which platform a command speaks to."""

from compose.local.home import Home, PlatformError
from compose.local.jobs import JobBook, remote_home
from compose.local.platform import Running

__all__ = ["LOCAL", "job_book", "running_platform"]

LOCAL = "local"


def running_platform() -> tuple[Home, Running]:
    """The platform that runs in HEADWATER_HOME, be it of ``headwater up`` or of a demo.

    Raises
    ------
    PlatformError
        Where none does.
    """
    home = Home.find()
    for each in (home, Home(home.path("demo"))):
        if (running := Running.find(each)) is not None:
            return each, running
    raise PlatformError(
        f"No platform runs in {home.root}. `headwater up` starts one, `headwater demo --keep` one with a year of "
        "traffic; set HEADWATER_HOME where it is another directory's."
    )


def job_book(target: str, kafka: str = "") -> JobBook:
    """The jobs of a target: `local`, or the REST address of a cluster, whose jobs read the brokers given.

    Raises
    ------
    PlatformError
        Where no platform runs here.
    """
    if target != LOCAL:
        return JobBook(remote_home(Home.find(), target), kafka, target, remote=True)
    home, running = running_platform()
    return JobBook(home, running.endpoints.kafka, running.endpoints.flink)
