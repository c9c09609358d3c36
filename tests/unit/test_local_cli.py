"""The command line without a platform: help, and errors people can act on."""

import json
import os
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from compose.cli import COMMANDS, headwater
from compose.local.home import Home


def run(home: Path, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "compose.cli", *arguments],
        env={**os.environ, "HEADWATER_HOME": str(home), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def said(done: "subprocess.CompletedProcess[str]") -> str:
    """The error of a command that failed as it should: one paragraph, no traceback."""
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    _, sign, message = done.stderr.partition("Error: ")
    assert sign, done.stderr
    assert "\n" not in message.strip()
    return message


def test_help_comes_at_once_and_imports_nothing_large():
    code = "import sys; sys.argv = ['headwater', '--help']; import compose.cli, atexit;" + (
        "atexit.register(lambda: print([m for m in ('pyflink', 'rich', 'psutil', 'confluent_kafka', 'pandas', 'feast')"
        " if m in sys.modules], file=sys.stderr)); compose.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists_and_explains_itself(name):
    command = import_module(f"compose.commands.{name.replace('-', '_')}").command
    assert isinstance(command, click.Command)
    shown = CliRunner().invoke(headwater, [name, "--help"], prog_name="headwater")
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 6
    within = command.commands.values() if isinstance(command, click.Group) else ()
    assert not [each.name for each in (command, *within) if "\\b" in (each.help or "")]  # meant as Click's character
    if isinstance(command, click.Group):
        return
    undocumented = [each.name for each in command.params if isinstance(each, click.Option) and not each.help]
    assert not undocumented


def test_an_unknown_command_is_a_usage_error():
    shown = CliRunner().invoke(headwater, ["fly"])
    assert shown.exit_code == 2
    assert "No such command 'fly'" in shown.output


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_a_taken_port_is_named_with_its_variable(tmp_path, detach):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1])
        error = said(run(tmp_path, "up", *detach, HEADWATER_KAFKA_PORT=number))
    assert f"Port {number}, which HEADWATER_KAFKA_PORT asks for, is taken" in error
    assert not (tmp_path / "platform.json").exists()


def test_a_state_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert "point HEADWATER_HOME at a directory that is" in said(run(tmp_path / "file" / "home", "up"))


def test_a_missing_archive_without_network(tmp_path):
    nowhere = "http://127.0.0.1:9"
    error = said(run(tmp_path / "home", "up", XDG_CACHE_HOME=str(tmp_path), HTTPS_PROXY=nowhere, https_proxy=nowhere))
    assert "is not in the cache and could not be fetched" in error


def test_nothing_runs(tmp_path):
    shown = run(tmp_path, "status")
    assert (shown.returncode, shown.stdout) == (1, f"No platform runs in {tmp_path}. `headwater up` starts one.\n")
    assert json.loads(run(tmp_path, "status", "--json").stdout) == {"running": False, "home": str(tmp_path)}
    shown = run(tmp_path, "down")
    assert (shown.returncode, shown.stdout) == (0, f"No platform runs in {tmp_path}.\n")
    assert "There are no logs" in said(run(tmp_path, "logs"))


def test_logs_of_one_and_of_all(tmp_path):
    home = Home(tmp_path).prepare(0)
    home.log_file("kafka").write_text("one\ntwo\nthree\n")
    home.log_file("page").write_text("four\n")
    assert run(tmp_path, "logs", "kafka", "-n", "2").stdout == "two\nthree\n"
    assert run(tmp_path, "logs", "-n", "1").stdout == "kafka | three\npage  | four\n"
    assert "no log of 'zookeeper', only of kafka, page" in said(run(tmp_path, "logs", "zookeeper"))


def test_a_platform_file_of_a_dead_process_is_not_believed(tmp_path):
    facts = {"kafka": "a:1", "flink": "b", "clickhouse": "c", "page": "d"}
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    for pid, started in ((ended.pid, time.time()), (os.getpid(), 1.0)):  # gone; and an id that is another's by now
        content = {"token": "t", "state": "up", "pid": pid, "started": started, "endpoints": facts, "services": {}}
        (tmp_path / "platform.json").write_text(json.dumps(content))
        assert run(tmp_path, "status").returncode == 1
    (tmp_path / "platform.json").write_text("{")
    assert run(tmp_path, "status").returncode == 1


def test_doctor_reports_each_check_and_fails_on_a_failure(tmp_path):
    done = run(tmp_path, "doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, report
    assert report["ok"]
    checks = {each["check"] for each in report["findings"]}
    assert {"java", "flink", "archives", "format", "state", "ports", "memory"} <= checks
    done = run(tmp_path, "doctor", HEADWATER_FLINK_PORT="0")
    assert done.returncode == 1
    assert "FAIL  ports: HEADWATER_FLINK_PORT is '0'; expected a port number" in done.stdout
