"""Where the local platform keeps its state (``HEADWATER_HOME``) and its downloads."""

import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FREE_BYTES_MIN", "Home", "PlatformError", "cache_dir", "write_text"]

# A replayed year with its topics, tables and checkpoints takes about half of it; Kafka halts when its disk fills up.
FREE_BYTES_MIN = 1 << 30

_DIRECTORIES = (
    "kafka",
    "flink/conf",
    "flink/log",
    "flink/checkpoints",
    "clickhouse",
    "online",
    "mlflow",
    "models",
    "runs",
    "reports",
    "logs",
    "jobs",
    "feast",
)


class PlatformError(Exception):
    """What a person can act on: what was expected, what came, what to do next. Shown without a traceback."""


def write_text(file: Path, content: str) -> None:
    """Write a file that readers see whole or not at all."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(content)
    partial.replace(file)


def _xdg(variable: str, fallback: str, environ: Mapping[str, str]) -> Path:
    """A base directory of the XDG specification, which says to ignore relative ones."""
    given = environ.get(variable, "")
    return Path(given) if Path(given).is_absolute() else Path.home() / fallback


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where downloads are kept for every platform of this user: ``$XDG_CACHE_HOME/headwater``."""
    return _xdg("XDG_CACHE_HOME", ".cache", environ) / "headwater"


@dataclass(frozen=True)
class Home:
    """The state directory of one platform.

    Attributes
    ----------
    root : Path
        Absolute. Everything the platform writes lies under it, except downloads.
    """

    root: Path

    @classmethod
    def find(cls, given: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> "Home":
        """The state directory to use: the given one, else ``HEADWATER_HOME``, else ``$XDG_STATE_HOME/headwater``."""
        chosen = given or environ.get("HEADWATER_HOME") or _xdg("XDG_STATE_HOME", ".local/state", environ) / "headwater"
        return cls(Path(chosen).expanduser().absolute())

    @property
    def platform_file(self) -> Path:
        """Endpoints and process ids of the platform that runs here."""
        return self.root / "platform.json"

    @property
    def lock_file(self) -> Path:
        """Held by the one supervisor of this directory."""
        return self.root / "platform.lock"

    def path(self, *parts: str) -> Path:
        """A path under the state directory."""
        return self.root.joinpath(*parts)

    def log_file(self, service: str) -> Path:
        """The log of one service."""
        return self.root / "logs" / f"{service}.log"

    def prepare(self, free_bytes_min: int = FREE_BYTES_MIN) -> "Home":
        """Create the layout and make sure that it can be used.

        Raises
        ------
        PlatformError
            When the directory cannot be created or written, or its disk is nearly full.
        """
        try:
            for name in _DIRECTORIES:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            # Mode bits say nothing on a read-only file system: only a write tells.
            with tempfile.TemporaryFile(dir=self.root) as probe:
                probe.write(b"headwater")
        except OSError as exc:
            raise PlatformError(
                f"The state directory {self.root} cannot be written ({exc.strerror or exc}). "
                "Make it writable or point HEADWATER_HOME at a directory that is, and run the command again."
            ) from exc
        free = shutil.disk_usage(self.root).free
        if free < free_bytes_min:
            raise PlatformError(
                f"The disk of the state directory {self.root} has {free >> 20} MiB free; the platform needs "
                f"{free_bytes_min >> 20} MiB, since Kafka halts on a full disk. Free some space, or point "
                "HEADWATER_HOME at a larger disk, and run the command again."
            )
        return self
