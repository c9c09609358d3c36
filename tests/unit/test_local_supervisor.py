import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compose.local import watchdog
from compose.local.home import Home, PlatformError
from compose.local.services import Backoff, Service, free_ports, in_start_order
from compose.local.supervisor import Supervisor

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
# Leaves its process group and session, as nothing well-behaved does.
FORKER = (
    sys.executable,
    "-c",
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=True); time.sleep(600)",
)


def eventually(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path).prepare(free_bytes_min=0)


@pytest.fixture
def run(home: Home) -> Iterator[Callable[..., Supervisor]]:
    started = []

    def start(*services: Service) -> Supervisor:
        supervisor = Supervisor(home, services, environ=dict(os.environ), token=f"test-{home.root.name}-{os.getpid()}")
        supervisor.start()
        started.append(supervisor)
        return supervisor

    yield start
    for each in started:
        each.stop(at_once=True)
        assert not watchdog.members(each._token)


def test_starts_in_order_and_stops_in_reverse(run, tmp_path):
    order = tmp_path / "order"
    script = textwrap.dedent("""
        import signal, sys, time
        def say(word): open(sys.argv[1], "a").write(f"{word} {sys.argv[2]}\\n")
        def stop(*_): time.sleep(0.2); say("-"); sys.exit()
        signal.signal(signal.SIGTERM, stop); say("+")
        while True: time.sleep(1)
    """)

    def service(name, *needs):
        said = lambda: f"+ {name}" in order.read_text()  # noqa: E731
        return Service(name, (sys.executable, "-c", script, str(order), name), depends_on=needs, ready=said)

    supervisor = run(service("c", "b"), service("b", "a"), service("a"))
    supervisor.wait(20)
    supervisor.stop()
    assert order.read_text().split("\n")[:-1] == ["+ a", "+ b", "+ c", "- c", "- b", "- a"]


def test_restarts_what_dies_and_calls_the_hook_once_it_is_ready_again(run):
    calls = []
    supervisor = run(Service("a", SLEEPER, on_restart=lambda: calls.append("restarted")))
    supervisor.wait(10)
    first = supervisor.facts()["a"]["pid"]
    assert calls == []
    os.kill(first, signal.SIGKILL)
    eventually(lambda: supervisor.facts()["a"]["restarts"] == 1 and supervisor.facts()["a"]["state"] == "ready")
    facts = supervisor.facts()["a"]
    assert facts["pid"] != first
    assert facts["reason"] == "was ended by SIGKILL"
    assert calls == ["restarted"]


def test_a_hook_that_fails_is_tried_again(run):
    tries = []

    def hook():
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("not yet")

    supervisor = run(Service("a", SLEEPER, on_ready=hook))
    supervisor.wait(10)
    assert len(tries) == 3


def test_what_a_dead_service_had_started_dies_before_it_is_started_again(run):
    supervisor = run(Service("a", FORKER))
    supervisor.wait(10)
    eventually(lambda: len(watchdog.members(supervisor._token, "a")) == 2)
    before = set(watchdog.members(supervisor._token, "a"))
    os.kill(supervisor.facts()["a"]["pid"], signal.SIGKILL)
    eventually(lambda: supervisor.facts()["a"]["restarts"] == 1 and supervisor.facts()["a"]["state"] == "ready")
    assert not before & set(watchdog.members(supervisor._token))


def test_a_service_that_never_starts_is_given_up_with_the_end_of_its_log(run):
    service = Service("bad", (sys.executable, "-c", "print('no such port'); raise SystemExit(3)"), ready=lambda: False)
    supervisor = run(service)
    with pytest.raises(PlatformError, match=r"(?s)bad cannot be started: it exited with status 3.*no such port"):
        supervisor.wait(20)


def test_a_service_that_never_answers_is_killed_and_given_up(run):
    def ready() -> bool:
        raise ConnectionRefusedError("connection refused")

    supervisor = run(Service("mute", SLEEPER, ready=ready, ready_timeout_s=0.3, backoff=Backoff(attempts_at_start=1)))
    with pytest.raises(PlatformError, match="was not ready within 0 s; check said: connection refused"):
        supervisor.wait(20)


def test_a_task_that_is_done_is_not_started_again(run):
    supervisor = run(Service("task", (sys.executable, "-c", "pass"), restart="failure"))
    eventually(lambda: supervisor.facts()["task"]["state"] == "exited")
    time.sleep(0.5)
    assert supervisor.facts()["task"]["restarts"] == 0


def test_a_process_that_ignores_sigterm_is_killed(run):
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(99)"
    )
    supervisor = run(Service("deaf", (sys.executable, "-c", script), stop_timeout_s=0.3))
    supervisor.wait(10)
    time.sleep(0.3)
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < 5


def test_kill_9_of_the_supervisor_leaves_nothing_behind(home):
    script = textwrap.dedent(f"""
        import os, sys
        from compose.local.home import Home
        from compose.local.services import Service
        from compose.local.supervisor import Supervisor
        from pathlib import Path
        supervisor = Supervisor(Home(Path({str(home.root)!r})), [Service("a", {FORKER!r}), Service("b", {SLEEPER!r})],
                                environ=dict(os.environ), token=sys.argv[1])
        supervisor.start()
        supervisor.wait(10)
        print("up", flush=True)
        supervisor._thread.join()
    """)
    token = f"test-kill-{os.getpid()}"
    supervisor = subprocess.Popen([sys.executable, "-c", script, token], stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == b"up\n"
    eventually(lambda: len(watchdog.members(token)) == 3)
    supervisor.kill()
    supervisor.wait()
    eventually(lambda: not watchdog.members(token), timeout_s=5)


def test_a_killed_watchdog_is_replaced(run):
    supervisor = run(Service("a", SLEEPER))
    supervisor.wait(10)
    first = supervisor._watchdog
    assert first is not None
    first.kill()
    eventually(lambda: supervisor._watchdog is not first and supervisor._watchdog.poll() is None)


def test_services_can_be_added_while_it_runs(run):
    supervisor = run(Service("a", SLEEPER))
    supervisor.add(Service("b", SLEEPER, depends_on=("a",)))
    supervisor.wait(10)
    assert supervisor.facts()["b"]["state"] == "ready"
    with pytest.raises(PlatformError, match="already has a service 'a'"):
        supervisor.add(Service("a", SLEEPER))
    with pytest.raises(PlatformError, match="depends on z"):
        supervisor.add(Service("c", SLEEPER, depends_on=("z",)))


def test_dependencies_that_cannot_be_met_are_named():
    with pytest.raises(PlatformError, match="a needs nowhere"):
        in_start_order([Service("a", (), depends_on=("nowhere",))])


def test_a_process_without_the_token_is_never_signalled():
    bystander = subprocess.Popen(SLEEPER)
    try:
        watchdog.end(bystander.pid, "some-token")
        time.sleep(0.1)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_ports_are_remembered_and_a_taken_one_is_refused_by_name():
    import socket

    ports = free_ports(["kafka", "rest"], environ={})
    assert len(set(ports.values())) == 2
    assert free_ports(["kafka", "rest"], remembered=ports, environ={}) == ports
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(PlatformError, match=f"Port {number}, which HEADWATER_KAFKA_PORT asks for, is taken"):
            free_ports(["kafka"], environ={"HEADWATER_KAFKA_PORT": str(number)})
        assert free_ports(["kafka"], remembered={"kafka": number}, environ={})["kafka"] != number
    with pytest.raises(PlatformError, match="expected a port number"):
        free_ports(["kafka"], environ={"HEADWATER_KAFKA_PORT": "many"})


def test_a_service_is_asked_for_while_it_runs_and_then_in_another_way(home: Home) -> None:
    wanted: list[Service] = []
    token = f"test-{home.root.name}-{os.getpid()}"
    supervisor = Supervisor(home, [], environ=dict(os.environ), token=token, more=lambda: tuple(wanted))
    supervisor.start()
    try:
        wanted.append(Service("a", SLEEPER, env={"WAY": "first"}))
        eventually(lambda: supervisor.facts().get("a", {}).get("state") == "ready")
        first = supervisor.facts()["a"]["pid"]
        time.sleep(1.5)  # it is asked for again
        assert supervisor.facts()["a"]["pid"] == first
        wanted[0] = Service("a", SLEEPER, env={"WAY": "second"})
        eventually(lambda: supervisor.facts()["a"]["pid"] not in (first, None))
        with Path(f"/proc/{supervisor.facts()['a']['pid']}/environ").open("rb") as environ:
            assert b"WAY=second" in environ.read()
        assert supervisor.facts()["a"]["restarts"] == 0
    finally:
        supervisor.stop(at_once=True)
    assert not watchdog.members(token)
