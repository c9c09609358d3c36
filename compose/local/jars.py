"""The Java archives the local platform runs on, pinned by SHA-256 in ``jars.lock`` and fetched once per user.

``python -m compose.local.jars lock`` resolves :data:`ROOTS` again and rewrites the lock. Everything else reads it.
"""

import hashlib
import logging
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compose.local.home import PlatformError, cache_dir

if TYPE_CHECKING:
    from jgo.maven import MavenContext

__all__ = ["LOCK_FILE", "ROOTS", "Jar", "jars", "locked", "missing", "write_lock"]

LOCK_FILE = Path(__file__).with_name("jars.lock")
DOWNLOADS_AT_ONCE = 8
ATTEMPTS = 3
TIMEOUT_S = 20

_KAFKA = "4.1.2"


@dataclass(frozen=True)
class Roots:
    """What one use needs: coordinates, and whether their dependencies come along."""

    coordinates: tuple[str, ...]
    transitive: bool = False


ROOTS = {
    "kafka": Roots(
        (
            f"org.apache.kafka:kafka_2.13:{_KAFKA}",
            f"org.apache.kafka:kafka-tools:{_KAFKA}",
            f"org.apache.kafka:connect-mirror:{_KAFKA}",
            "org.slf4j:slf4j-simple:1.7.36",
        ),
        transitive=True,
    ),
    "flink": Roots(
        (
            "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2",
            "org.apache.flink:flink-sql-avro:2.3.0",
        )
    ),
    "build": Roots(("org.eclipse.jdt:ecj:3.40.0",)),
    # For tests alone.
    "kubernetes-mock": Roots(
        ("io.fabric8:kubernetes-server-mock:7.8.0", "io.fabric8:kubernetes-client:7.8.0", "org.slf4j:slf4j-nop:2.0.17"),
        transitive=True,
    ),
}


@dataclass(frozen=True)
class Jar:
    """One archive of the lock.

    Attributes
    ----------
    coordinate : str
        ``group:artifact:version`` or ``group:artifact:packaging:classifier:version``.
    sha256 : str
        Hexadecimal.
    """

    coordinate: str
    sha256: str

    @property
    def path(self) -> Path:
        """Place below a Maven repository."""
        group, artifact, *middle, version = self.coordinate.split(":")
        classifier = f"-{middle[1]}" if len(middle) == 2 else ""
        return Path(*group.split("."), artifact, version, f"{artifact}-{version}{classifier}.jar")

    def intact(self, file: Path) -> bool:
        """Whether the file is there and is the one that was locked."""
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256


@cache
def locked(use: str) -> tuple[Jar, ...]:
    """The archives of one use, a key of :data:`ROOTS`, as committed.

    Raises
    ------
    PlatformError
        When the lock has no such section.
    """
    sections = tomllib.loads(LOCK_FILE.read_text())
    if use not in sections:
        raise PlatformError(
            f"{LOCK_FILE.name} has no section {use!r}, only {', '.join(sections)}. "
            "Run `python -m compose.local.jars lock` in the source tree."
        )
    return tuple(Jar(coordinate, sha256) for coordinate, sha256 in sections[use].items())


def missing(use: str, cache: Path | None = None) -> list[Jar]:
    """The archives of a use that are not in the cache, or not as locked."""
    store = _store(cache)
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        kept = pool.map(lambda jar: jar.intact(store / jar.path), locked(use))
        return [jar for jar, intact in zip(locked(use), kept, strict=True) if not intact]


def jars(use: str, cache: Path | None = None) -> list[Path]:
    """Paths of the archives of one use, fetched first where the cache lacks them.

    Parameters
    ----------
    use : str
        A key of :data:`ROOTS`.
    cache : Path, optional
        Default: the cache of this user.

    Raises
    ------
    PlatformError
        When an archive can neither be found nor fetched, or differs from the lock.
    """
    if lacking := missing(use, cache):
        _fetch(lacking, _store(cache))
    return [_store(cache) / jar.path for jar in locked(use)]


def _store(cache: Path | None) -> Path:
    return (cache or cache_dir()) / "jars"


def _fetch(lacking: list[Jar], store: Path) -> None:
    """Download into a directory beside the store, verify, and only then move into place."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    try:
        store.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=store))
    except OSError as exc:
        raise PlatformError(
            f"The cache {store} cannot be written ({exc.strerror}), and {len(lacking)} Java archives are missing from "
            "it. Make it writable or point XDG_CACHE_HOME elsewhere."
        ) from exc
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TextColumn("{task.fields[jars]}"))
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("Fetching Java archives (once)", total=None, jars="")
            context = _context(staging, progress, task)
            done = 0
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
                futures = [pool.submit(_fetch_one, jar, context, store) for jar in lacking]
                try:
                    for future in futures:
                        future.result()
                        done += 1
                        progress.update(task, jars=f"{done}/{len(lacking)} jars")
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _context(repo_cache: Path, progress: Any = None, task: Any = None) -> "MavenContext":
    """The Maven client at its own defaults: which repository it asks is its business, not ours."""
    from jgo.maven import MavenContext, PythonResolver

    logging.getLogger("jgo").setLevel(logging.ERROR)

    @contextmanager
    def report(_name: str, size: int) -> Iterator[Any]:
        progress.update(task, total=(progress.tasks[0].total or 0) + size)
        yield lambda count: progress.advance(task, count)

    resolver = PythonResolver(progress_callback=report if progress else None)
    return MavenContext(resolver=resolver, repo_cache=repo_cache, local_repos=[], timeout=TIMEOUT_S)


def _fetch_one(jar: Jar, context: "MavenContext", store: Path) -> None:
    """Fetch one archive, trying again after what passes: a dropped connection, a short read.

    Raises
    ------
    PlatformError
    """
    reason = ""
    for attempt in range(ATTEMPTS):
        time.sleep(attempt)  # 0, 1, 2 seconds: a repository that is throttling wants a pause
        staged = context.repo_cache / jar.path
        staged.unlink(missing_ok=True)
        try:
            context.resolver.download(context.create_dependency(jar.coordinate).artifact)
        except (OSError, RuntimeError) as exc:  # requests' errors are OSErrors; jgo raises RuntimeError on a 404
            reason = f"{type(exc).__name__}: {str(exc).rpartition('Caused by ')[2][:200]}"
            continue
        if not jar.intact(staged):
            reason = f"the SHA-256 of what came is not {jar.sha256}, which jars.lock asks for"
            continue
        target = store / jar.path
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(target)
        return
    raise PlatformError(
        f"The Java archive {jar.coordinate} is not in the cache and could not be fetched ({reason}). The platform "
        "needs the network once. Connect and run the command again, or copy the file to "
        f"{store / jar.path}; nothing else is lost."
    )


def write_lock(roots: Mapping[str, Roots] = ROOTS, file: Path = LOCK_FILE) -> None:
    """Resolve the roots afresh and write the lock: one section a use, ``"coordinate" = "sha256"``."""
    lines = ["# Written by `python -m compose.local.jars lock`. Coordinate = SHA-256 of the archive."]
    with tempfile.TemporaryDirectory() as scratch:
        context = _context(Path(scratch))
        for use, root in roots.items():
            asked = [context.create_dependency(each) for each in root.coordinates]
            direct, indirect = context.resolver.resolve(asked, transitive=root.transitive)
            # Only what Maven would put on a runtime class path; a class path, never a JDK, is all that is resolved.
            chosen = direct + [each for each in indirect if root.transitive and each.scope in ("compile", "runtime")]
            lines += ["", f"[{use}]"]
            entries = set()
            for each in chosen:
                middle = f":jar:{each.classifier}" if each.classifier else ""
                digest = hashlib.sha256(each.artifact.resolve().read_bytes()).hexdigest()
                entries.add(f'"{each.groupId}:{each.artifactId}{middle}:{each.version}" = "{digest}"')
            lines += sorted(entries)
    file.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        write_lock()
    else:
        sys.exit("usage: python -m compose.local.jars lock")
