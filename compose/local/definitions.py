"""Copies of Feast repos as they were submitted: a job that is sent again by the platform is the one that was asked for.

The files are copied and not the statements made of them: a transformation may be a Python function. A job is read from
its copy from the first time on, so that what the copy lacks shows at once.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from compose.local.home import Home, PlatformError

__all__ = ["forget", "keep"]

FILE_BYTES_MAX = 1 << 20  # definitions and what they read; data is larger
BYTES_MAX = 32 << 20
_DATA = (".db", ".db-wal", ".db-shm", ".parquet")


def keep(home: Home, job: str, repo: Path) -> Path:
    """Copy the files of a repo that its definitions may need: not hidden ones, not data.

    Returns
    -------
    Path
        Folder of the copy, one for each content.

    Raises
    ------
    PlatformError
        Where the repo is no folder of definitions, by its size.
    """
    files = {each.relative_to(repo): each.read_bytes() for each in _files(repo)}
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    copies = home.path("jobs", "definitions", job)
    copy = copies / digest.hexdigest()[:16]
    if copy.is_dir():
        return copy
    copies.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".", dir=copies))
    for name, content in files.items():
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_bytes(content)
    partial.rename(copy)
    return copy


def forget(home: Home, job: str, options: Collection[str]) -> None:
    """Delete the copies made for a job that none of these options of jobs names."""
    for each in home.path("jobs", "definitions", job).glob("*"):
        if str(each) not in options:
            shutil.rmtree(each, ignore_errors=True)


def _files(repo: Path) -> Iterator[Path]:
    total = 0
    for folder, folders, names in os.walk(repo):
        folders[:] = sorted(each for each in folders if not each.startswith(".") and each != "__pycache__")
        for each in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            if each.suffix in _DATA or not each.is_file() or (size := each.stat().st_size) > FILE_BYTES_MAX:
                continue
            if (total := total + size) > BYTES_MAX:
                raise PlatformError(
                    f"{repo} holds more than {BYTES_MAX >> 20} MB of small files; a copy of the definitions is kept "
                    "with the job, so give them a folder of their own."
                )
            yield each
