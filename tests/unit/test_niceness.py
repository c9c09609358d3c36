"""What shares a processor with a session that yields gets nearly all of it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.niceness import session_yields

SPIN = "import os\nos.nice({niceness})\nos.sched_setaffinity(0, [{cpu}])\nwhile True: pass"
AUTOGROUPS = Path("/proc/sys/kernel/sched_autogroup_enabled")


def ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.skipif(not AUTOGROUPS.exists() or AUTOGROUPS.read_text().strip() != "1", reason="no autogroups here")
def test_a_session_yields_to_another():
    cpu = min(os.sched_getaffinity(0))
    spinners = [
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", SPIN.format(niceness=niceness, cpu=cpu)], start_new_session=True
        )
        for niceness in (0, 19)
    ]
    try:
        session_yields(19, spinners[1].pid)
        time.sleep(0.5)  # they start
        before = [ticks(each.pid) for each in spinners]
        deadline = time.monotonic() + 30
        while sum(found := [ticks(each.pid) - b for each, b in zip(spinners, before, strict=True)]) < 100:
            assert time.monotonic() < deadline, f"ticks of the two sessions: {found}"
            time.sleep(0.1)
        assert found[1] < found[0] / 4
    finally:
        for each in spinners:
            each.kill()
            each.wait()
