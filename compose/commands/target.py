"""Which platform a command speaks to."""

from compose.local.home import Home, PlatformError
from compose.local.platform import Running

__all__ = ["running_platform"]


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
