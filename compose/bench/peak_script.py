"""A command, how long it takes and how much memory: ``peak_script.py PROGRAM ARGUMENT ...``. Prints one JSON object.

A process of its own, and a small one: Linux counts towards a process's peak what held the memory it was started from,
so that a large parent that has a child waited for sees its own peak there.
"""

import json
import resource
import subprocess
import sys
import time

__all__ = ["main"]


def main(command: list[str]) -> int:
    """Run it, its output thrown away, say what it took, and give its exit code, as a shell would."""
    began = time.monotonic()
    code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"seconds": seconds, "bytes": peak}))  # noqa: T201
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
