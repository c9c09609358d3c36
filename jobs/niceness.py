"""Letting other processes go first, also where each session has a share of the processor of its own."""

import time
from pathlib import Path

__all__ = ["session_yields"]

ATTEMPTS = 5
PAUSE_S = 0.15


def session_yields(niceness: int, pid: int | None = None) -> None:
    """Make the session of a process yield to others.

    Linux's autogroups (sched(7)) share the processor out among sessions first, so that a process of niceness 19 in a
    session of its own takes as much as any other session; their shares have a niceness of their own. An ordinary user
    may set one about every 100 ms, whoever else does. Without it there is no harm.

    Parameters
    ----------
    niceness : int
        0 to 19.
    pid : int, optional
        Default: this process.
    """
    for _ in range(ATTEMPTS):
        try:
            Path(f"/proc/{pid or 'self'}/autogroup").write_text(str(niceness))
        except BlockingIOError:
            time.sleep(PAUSE_S)
        except OSError:  # a system without autogroups, or a process that is gone
            return
        else:
            return
