"""Where the local platform keeps things, which Java it takes, and how it gets its archives."""

import http.server
import os
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from compose.local import jars as jars_module
from compose.local.formats import format_jar
from compose.local.home import Home, PlatformError, cache_dir
from compose.local.jars import Jar, jars, locked, missing
from compose.local.java import java_command, java_home, java_version
from compose.local.kafka import kafka_ready
from compose.local.platform import Platform, Running
from compose.local.runner import bound_log, log_tail


class TestHome:
    def test_the_option_wins_over_the_variable_over_the_default(self, tmp_path):
        environ = {"HEADWATER_HOME": str(tmp_path / "b"), "XDG_STATE_HOME": str(tmp_path / "c")}
        assert Home.find(tmp_path / "a", environ).root == tmp_path / "a"
        assert Home.find(None, environ).root == tmp_path / "b"
        del environ["HEADWATER_HOME"]
        assert Home.find(None, environ).root == tmp_path / "c" / "headwater"
        assert Home.find(None, {"XDG_STATE_HOME": "relative"}).root == Path.home() / ".local/state/headwater"
        assert cache_dir({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "headwater"

    def test_too_little_space_is_said_with_both_figures(self, tmp_path):
        with pytest.raises(PlatformError, match=r"has \d+ MiB free; the platform needs 1099511627776 MiB"):
            Home(tmp_path).prepare(free_bytes_min=1 << 60)

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(PlatformError, match=r"file/home cannot be written .*point HEADWATER_HOME"):
            Home(tmp_path / "file" / "home").prepare()

    @pytest.mark.skipif(os.geteuid() == 0, reason="mode bits do not bind root")
    def test_a_read_only_directory_is_named(self, tmp_path):
        home = Home(tmp_path / "home").prepare(0)
        home.root.chmod(0o500)
        with pytest.raises(PlatformError, match="cannot be written"):
            home.prepare(0)

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
    def test_a_full_and_a_read_only_file_system(self, tmp_path):
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip("mounting is not allowed here")
        try:
            home = Home(tmp_path / "home").prepare(0)
            with pytest.raises(PlatformError, match="MiB free"):
                home.prepare()
            subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
            with pytest.raises(PlatformError, match="Read-only file system"):
                home.prepare(0)
        finally:
            subprocess.run(["umount", tmp_path], check=True)


class TestJava:
    def java(self, directory: Path, version: str) -> Path:
        (directory / "bin").mkdir(parents=True)
        (directory / "bin" / "java").touch(mode=0o755)
        (directory / "release").write_text(f'IMPLEMENTOR="X"\nJAVA_VERSION="{version}"\n')
        return directory

    def test_the_users_own_wins_where_it_fits(self, tmp_path):
        assert java_home({"JAVA_HOME": str(self.java(tmp_path / "17", "17.0.15"))}) == tmp_path / "17"
        for unfit in ("1.8.0_452", "11.0.27", "25"):
            home = self.java(tmp_path / unfit, unfit)
            assert java_home({"JAVA_HOME": str(home)}) == java_home({}), unfit
        assert java_home({"JAVA_HOME": str(tmp_path / "nowhere")}) == java_home({})

    def test_the_bundled_one_runs(self):
        assert java_version(java_home({})) == 21
        command = [java_command("x", [], environ={})[0], "-version"]
        assert "21." in subprocess.run(command, capture_output=True, text=True, check=True).stderr

    def test_the_command_has_options_class_path_class_and_arguments_in_order(self):
        command = java_command("a.Main", [Path("x.jar"), "y.jar"], options=["-Xmx1m"], arguments=["--go"], environ={})
        assert command[1:] == ["-Xmx1m", "-cp", "x.jar:y.jar", "a.Main", "--go"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository of our own, at which the client looks instead of its default."""
    root = tmp_path / "repository"
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("jgo.maven._core.DEFAULT_REMOTE_REPOS", {"ours": f"http://127.0.0.1:{server.server_port}"})
    monkeypatch.setattr(jars_module, "ATTEMPTS", 1)
    yield root
    server.shutdown()
    server.server_close()


class TestJars:
    SHA256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of b"hello"

    @pytest.fixture(autouse=True)
    def lock(self, tmp_path, monkeypatch):
        file = tmp_path / "jars.lock"
        file.write_text(f'[use]\n"org.example:thing:1.0" = "{self.SHA256}"\n')
        monkeypatch.setattr(jars_module, "LOCK_FILE", file)
        locked.cache_clear()
        yield
        locked.cache_clear()

    def publish(self, repository: Path, content: bytes) -> None:
        file = repository / "org/example/thing/1.0/thing-1.0.jar"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def test_fetched_once_and_then_without_network(self, repository, tmp_path):
        self.publish(repository, b"hello")
        (path,) = jars("use", tmp_path / "cache")
        assert path.read_bytes() == b"hello"
        (repository / "org/example/thing/1.0/thing-1.0.jar").unlink()
        assert jars("use", tmp_path / "cache") == [path]
        assert not list((tmp_path / "cache").rglob(".staging*"))

    def test_a_corrupt_file_is_fetched_again(self, repository, tmp_path):
        self.publish(repository, b"hello")
        (path,) = jars("use", tmp_path / "cache")
        path.write_bytes(b"hellO")
        assert [each.coordinate for each in missing("use", tmp_path / "cache")] == ["org.example:thing:1.0"]
        assert jars("use", tmp_path / "cache")[0].read_bytes() == b"hello"

    def test_what_differs_from_the_lock_is_refused_and_not_kept(self, repository, tmp_path):
        self.publish(repository, b"evil")
        with pytest.raises(PlatformError, match=r"org.example:thing:1.0 .*SHA-256 of what came is not 2cf24"):
            jars("use", tmp_path / "cache")
        assert not list((tmp_path / "cache").rglob("*.jar"))

    def test_what_is_nowhere_to_be_had_is_named_with_where_to_put_it(self, repository, tmp_path):
        with pytest.raises(PlatformError, match=r"thing:1.0 is not in the cache.*copy the file to .*thing-1.0.jar"):
            jars("use", tmp_path / "cache")

    def test_an_unknown_use_names_those_there_are(self):
        with pytest.raises(PlatformError, match="no section 'other', only use"):
            jars("other")

    def test_a_classifier_is_part_of_the_file_name(self):
        assert str(Jar("io.x:native:jar:linux:2.0", "").path) == "io/x/native/2.0/native-2.0-linux.jar"


def test_the_committed_lock_covers_every_root():
    for use, roots in jars_module.ROOTS.items():
        assert set(roots.coordinates) <= {each.coordinate for each in locked(use)}
        assert all(len(each.sha256) == 64 for each in locked(use))


class TestFormatJar:
    def sources(self, directory: Path, body: str) -> Path:
        (directory / "src" / "a").mkdir(parents=True, exist_ok=True)
        (directory / "src" / "a" / "Thing.java").write_text(f"package a; public record Thing({body}) {{ }}")
        (directory / "resources" / "META-INF" / "services").mkdir(parents=True, exist_ok=True)
        (directory / "resources" / "META-INF" / "services" / "x.Y").write_text("a.Thing")
        return directory

    @pytest.fixture
    def cache(self, tmp_path):
        """A cache of its own that has the archives of the user's."""
        jars("flink"), jars("build")
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "jars").symlink_to(cache_dir() / "jars")
        return tmp_path / "cache"

    def test_compiles_once_for_the_same_sources(self, tmp_path, cache):
        java = self.sources(tmp_path / "java", "org.apache.flink.table.types.DataType type")
        first = format_jar(java, cache)
        with zipfile.ZipFile(first) as archive:
            assert archive.namelist() == ["META-INF/services/x.Y", "a/Thing.class"]
        before = first.stat().st_mtime_ns
        assert format_jar(java, cache) == first
        assert first.stat().st_mtime_ns == before
        content = first.read_bytes()
        first.unlink()
        assert format_jar(java, cache).read_bytes() == content, "the same sources give the same bytes"
        assert format_jar(self.sources(java, "int other"), cache) != first

    def test_the_compilers_words_reach_the_reader(self, tmp_path, cache):
        java = self.sources(tmp_path / "java", "NoSuchType x")
        with pytest.raises(PlatformError, match=r"(?s)do not compile.*NoSuchType cannot be resolved"):
            format_jar(java, cache)
        assert list((cache / "format").iterdir()) == []

    def test_no_sources(self, tmp_path):
        with pytest.raises(PlatformError, match="No Java sources"):
            format_jar(tmp_path, tmp_path)


def test_a_log_that_grew_too_large_begins_anew(tmp_path):
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"one\n" * 10)
        bound_log(log, bytes_max=100)
        assert log.stat().st_size == 40
        bound_log(log, bytes_max=30)
        writer.write(b"two\n")
    assert log.read_bytes() == b"two\n"
    assert (tmp_path / "a.log.1").read_bytes() == b"one\n" * 10
    assert log_tail(tmp_path / "a.log.1", 2) == "one\none"
    assert log_tail(tmp_path / "none.log") == "(the log is empty)"


def test_a_slow_writer_does_not_turn_the_state_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervising thread has read `starting`, writes it a little later, and meanwhile all is up."""
    made = Platform(Home(tmp_path).prepare(free_bytes_min=0))
    made.ports = dict.fromkeys(("kafka", "flink", "clickhouse", "page"), 1)
    begun = threading.Event()

    def slowly(file: Path, content: str) -> None:
        begun.set()
        if '"starting"' in content:
            time.sleep(0.3)
        file.write_text(content)

    monkeypatch.setattr("compose.local.platform.write_text", slowly)
    thread = threading.Thread(target=made._write, args=({},))
    thread.start()
    assert begun.wait(5)
    made._state = "up"
    made._write({})
    thread.join()
    running = Running.read(made.home)
    assert running is not None
    assert running.state == "up"


def test_the_error_of_a_broker_that_hangs_keeps_no_client():
    """It may be let go by the client's own thread, in which librdkafka aborts if the client goes with it."""
    threads = Path("/proc/self/task")
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        before = set(threads.iterdir())
        with pytest.raises(KafkaException) as raised:
            kafka_ready(f"127.0.0.1:{hangs.getsockname()[1]}")()
        assert raised.value.__traceback__ is not None  # with all that its frames hold
        assert not set(threads.iterdir()) - before
