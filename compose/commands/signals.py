"""Signals that ask a command to stop."""

import signal
from types import FrameType

__all__ = ["stop_on_signals"]


def stop_on_signals() -> None:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: everything that was started is stopped, in order."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as it is under nohup
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
