"""How a training process begins on this machine: as a command, or forked off a process that has imported all it needs.

Importing scikit-learn, Feast and MLflow takes 8 s of processor time, a third of a run of the flights, and an incident
waits for it: see :class:`Forking`.

Either way the process leads a session of its own, yields to what serves, and dies with the process that began it.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from jobs.niceness import session_yields

__all__ = ["Forking", "Launcher", "Spawning", "kill_session"]

NICENESS = 5
ENVIRON = {
    # For numeric libraries: their default, a thread a core, was 12 times slower on a busy machine of two.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # A run tells nobody else that it runs; and no thread of that is there when it forks.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
STOP_SECONDS = 5.0
START_SECONDS = 120.0
PROCESS_FILE = "process"
DIRECTORY_BYTES = 4096
Train = Callable[[Sequence[str]], int]
_PR_SET_PDEATHSIG = 1

# Says who it is, asks the kernel for its own death with its parent's, then becomes the command. Not a preexec_fn: that
# would run Python between fork and exec in a process that has threads.
_CHILD = """
import ctypes, os, sys
parent, niceness, file, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(parent):
    sys.exit("the process that started this one is gone")
if os.path.isdir("/proc/self"):
    with open("/proc/self/stat") as stat, open(file, "w") as out:
        out.write(f"{os.getpid()} {stat.read().rpartition(')')[2].split()[19]}")
os.nice(int(niceness))
os.execvp(command[0], command)
"""


class Launcher(Protocol):
    """Begins training processes."""

    def start(self, directory: Path, lock: int, log: int) -> None:
        """Begin one for a run's directory.

        Parameters
        ----------
        directory : Path
            Gets a file that tells which process it is, for :func:`kill_session`.
        lock, log : int
            File descriptors: the first stays open as long as the process lives, the other is for what it prints.
        """

    def close(self) -> None:
        """End what was begun here."""


class Spawning:
    """Begins a command, with ``--run DIRECTORY`` behind it.

    Parameters
    ----------
    command : sequence of str
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, directory: Path, lock: int, log: int) -> None:
        """See :meth:`Launcher.start`."""
        self._children = [each for each in self._children if each.poll() is None]
        said = (str(os.getpid()), str(NICENESS), str(directory / PROCESS_FILE))
        wrapper = (sys.executable, "-I", "-S", "-c", _CHILD, *said)
        child = subprocess.Popen(
            [*wrapper, *self._command, "--run", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **ENVIRON},
            pass_fds=(lock,),
            start_new_session=True,
        )
        self._children.append(child)
        session_yields(NICENESS, child.pid)

    def close(self) -> None:
        """See :meth:`Launcher.close`."""
        for child in self._children:
            child.terminate()
        for child in self._children:
            _wait(child)
        self._children.clear()


class Forking:
    """Forks processes off one that has imported what they need.

    That one begins at once, so that the first incident need not wait for it, and stays: some 300 MB that a run shares.

    Parameters
    ----------
    entry : str
        ``module:function`` that trains; it takes ``["--run", DIRECTORY]`` and returns an exit code.
    imports : sequence of str
        Modules that it will import later.
    """

    def __init__(self, entry: str, imports: Sequence[str] = ()) -> None:
        self._arguments = (entry, *imports)
        self._parent: subprocess.Popen[bytes] | None = None
        self._ours: socket.socket | None = None
        self._asking = threading.Lock()
        self._begin()

    def start(self, directory: Path, lock: int, log: int) -> None:
        """See :meth:`Launcher.start`."""
        with self._asking:
            if self._parent is None or self._parent.poll() is not None:
                self._begin()
            assert self._ours is not None
            try:
                socket.send_fds(self._ours, [os.fsencode(directory)], [lock, log])
                pid = int(self._ours.recv(64) or b"0")
            except OSError as exc:
                self.close()  # what it says later would be taken for the answer to another question
                raise ChildProcessError(f"the process that training is forked off does not answer: {exc}") from exc
        if not pid:
            raise ChildProcessError("the process that training is forked off has ended")
        session_yields(NICENESS, pid)

    def close(self) -> None:
        """See :meth:`Launcher.close`."""
        if self._parent is not None:
            self._parent.terminate()
            _wait(self._parent)
        if self._ours is not None:
            self._ours.close()
        self._parent = self._ours = None

    def _begin(self) -> None:
        self.close()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(START_SECONDS)
        with theirs:
            self._parent = subprocess.Popen(
                [sys.executable, "-m", __name__, str(os.getpid()), *self._arguments],
                stdin=theirs.fileno(),
                env={**os.environ, **ENVIRON},
                start_new_session=True,
            )
        session_yields(NICENESS, self._parent.pid)


def kill_session(directory: Path) -> None:
    """Kill the process of a run's directory, and what it has begun; nothing where it is gone."""
    with contextlib.suppress(OSError, ValueError):
        pid, began = (directory / PROCESS_FILE).read_text().split()
        if _began(int(pid)) == began:  # another may have its number by now
            os.killpg(int(pid), signal.SIGKILL)


def _began(pid: int) -> str:
    """When a process began, in ticks since the machine did."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _wait(child: "subprocess.Popen[bytes]") -> None:
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")


def main(argv: Sequence[str]) -> None:
    """Import, then fork for each directory that comes over standard input, until that is closed."""
    parent, entry, *imports = argv
    _die_with(int(parent))
    os.nice(NICENESS)
    module, _, function = entry.partition(":")
    train: Train = getattr(import_module(module), function)
    for each in imports:
        import_module(each)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(fileno=os.dup(0)) as theirs:
        while True:
            directory, handles, _, _ = socket.recv_fds(theirs, DIRECTORY_BYTES, 2)
            if not directory:
                return
            here = os.getpid()
            if not (pid := os.fork()):
                theirs.close()
                # Left as any program is: what waits for processes that it has begun runs at its exit.
                sys.exit(_run(train, Path(os.fsdecode(directory)), here, log=handles[1]))
            for handle in handles:
                os.close(handle)
            theirs.send(str(pid).encode())


def _run(train: Train, directory: Path, parent: int, log: int) -> int:
    """What the forked process does; its exit code."""
    os.setsid()
    _die_with(parent)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(log, stream)
    (directory / PROCESS_FILE).write_text(f"{os.getpid()} {_began(os.getpid())}")
    return train(["--run", str(directory)])


if __name__ == "__main__":
    main(sys.argv[1:])
