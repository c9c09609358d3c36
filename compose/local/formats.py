"""Headwater's Flink format, compiled from ``jobs/java`` at first use by the Eclipse compiler on the bundled runtime."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from compose.local.home import PlatformError, cache_dir
from compose.local.jars import jars, locked
from compose.local.java import java_command

__all__ = ["JAVA_DIR", "compile_java", "flink_home", "format_jar"]

JAVA_DIR = Path(__file__).parents[2] / "jobs" / "java"
JAVA_RELEASE = "17"
COMPILE_TIMEOUT_S = 300
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same sources give the same bytes


def flink_home() -> Path:
    """Root of the Flink distribution inside the PyFlink wheel; found without importing it.

    Raises
    ------
    PlatformError
        When PyFlink is not installed.
    """
    spec = find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise PlatformError("PyFlink is not installed in this environment. Run `uv sync` and the command again.")
    return Path(spec.origin).parent


def format_jar(java_dir: Path = JAVA_DIR, cache: Path | None = None) -> Path:
    """The archive with Headwater's Flink format.

    Compiled when the cache has none for these sources and this class path. Two processes may do so at once: each
    compiles in a directory of its own, and the last rename wins over identical bytes.

    Parameters
    ----------
    java_dir : Path
        Holds ``src`` (sources) and ``resources`` (copied as they are).
    cache : Path, optional
        Default: the cache of this user.

    Raises
    ------
    PlatformError
        When there are no sources or they do not compile; with the compiler's own words.
    """
    sources = sorted((java_dir / "src").rglob("*.java"))
    resources = sorted(each for each in (java_dir / "resources").rglob("*") if each.is_file())
    if not sources:
        raise PlatformError(f"No Java sources under {java_dir / 'src'}: the installation is incomplete, reinstall it.")
    libraries = sorted((flink_home() / "lib").glob("*.jar"))
    digest = _digest(java_dir, [*sources, *resources], libraries)
    target = (cache or cache_dir()) / "format" / f"headwater-format-{digest}.jar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as scratch:
            classes = Path(scratch) / "classes"
            compile_java(sources, [*libraries, *jars("flink", cache)], classes, cache)
            for each in resources:
                copy = classes / each.relative_to(java_dir / "resources")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(each, copy)
            packed = Path(scratch) / target.name
            _pack(classes, packed)
            packed.replace(target)
    return target


def _digest(java_dir: Path, files: Iterable[Path], libraries: Iterable[Path]) -> str:
    """16 hexadecimal digits over sources, resources, and the names of what they are compiled with and against."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(java_dir).as_posix()}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    names = [each.name for each in libraries] + [each.coordinate for use in ("flink", "build") for each in locked(use)]
    digest.update("\0".join([JAVA_RELEASE, *names]).encode())
    return digest.hexdigest()[:16]


def compile_java(sources: Iterable[Path], classpath: Iterable[Path], out: Path, cache: Path | None = None) -> None:
    """Compile Java sources by the Eclipse compiler.

    Parameters
    ----------
    sources, classpath : iterable of Path
    out : Path
        Directory of the classes.
    cache : Path, optional
        Default: the cache of this user.

    Raises
    ------
    PlatformError
        With the compiler's own words.
    """
    command = java_command(
        "org.eclipse.jdt.internal.compiler.batch.Main",
        jars("build", cache),
        options=["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"],
        arguments=[
            *(f"-{JAVA_RELEASE}", "-nowarn", "-proc:none", "-g", "-encoding", "UTF-8", "-d", str(out)),
            *("-cp", os.pathsep.join(map(str, classpath))),
            *map(str, sources),
        ],
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise PlatformError(f"Java sources of Headwater do not compile:\n{(done.stderr or done.stdout).strip()}")


def _pack(directory: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(each for each in directory.rglob("*") if each.is_file()):
            info = zipfile.ZipInfo(file.relative_to(directory).as_posix(), _ZIP_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(info, file.read_bytes())
