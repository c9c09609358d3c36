"""Scripts of other people's libraries, run by ``uv`` in an environment of their own."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compose.local.home import PlatformError

__all__ = ["run_apart", "uv_program"]

TIMEOUT_S = 900.0


def uv_program() -> str | None:
    """What runs a script in an environment of its own, where it is there."""
    return shutil.which("uv")


def run_apart(uv: str, packages: Sequence[str], script: Path, order: Mapping[str, Any]) -> dict[str, Any]:
    """Run a script beside these packages and nothing else; it is given `order` as JSON and prints JSON last.

    Raises
    ------
    PlatformError
        Where it fails; the message has the end of what it said.
    """
    command = [uv, "run", "--quiet", "--no-project", "--isolated", *(f"--with={each}" for each in packages)]
    command += ["python", "-I", "-W", "ignore", str(script), json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise PlatformError(f"{script.stem} failed with {', '.join(packages)}: {done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
