"""Planning in a process with several threads."""

import os
import threading

from pyflink.table import EnvironmentSettings, TableEnvironment

from compose.local.java import java_home
from jobs.cluster import gateway

_FILTERED = "SELECT a FROM (SELECT 1 AS a UNION ALL SELECT 2) WHERE a > 1"


def test_a_thread_plans_in_the_java_thread_it_began_in() -> None:
    """Flink's planner fails in another one than made the environment; another thread's calls must not lead there."""
    os.environ.setdefault("JAVA_HOME", str(java_home()))
    java = gateway().jvm.java.lang.Thread
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    before = java.currentThread().getName()
    # The other thread's connection is the last to be idle: py4j alone would give it to the next call.
    other = threading.Timer(0.2, java.sleep, (800,))
    other.start()
    java.sleep(600)
    other.join()
    assert java.currentThread().getName() == before
    assert "Optimized" in tables.explain_sql(_FILTERED)
