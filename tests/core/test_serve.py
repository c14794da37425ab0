"""`flask serve`: startup, a second instance, shutdown by Ctrl-C, and recovery from crashes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests
import stripe
from click import ClickException

from models.core.settings import ROOT, SIMULATOR_ACCESS, load_settings
from tests.server import living
from views.server.serve import _listen
from views.server.supervisor import ChildProcess, ServeState, Supervisor


class Server:
    """A `flask serve` with its own data directory."""

    def __init__(self, data_dir: Path, port: int, **environment: str) -> None:
        self.port = port
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [ROOT / ".venv/bin/flask", "serve"],
            cwd=ROOT,
            env=os.environ
            | {"STOA_DATA_DIR": str(data_dir), "PORT": str(port), "STOA_WORKERS": "1", "DATABASE_URL": ""}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            self.lines.extend(line.rstrip("\n") for line in lines)

    def wait_for(self, text: str, seconds: float = 150) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in list(self.lines):
                if text in line:
                    return line
            if self.process.poll() is not None and not self.reader.is_alive():
                break
            time.sleep(0.05)
        raise AssertionError(f"{text!r} was not output within {seconds} s:\n" + "\n".join(self.lines))

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        code = self.process.wait(90)
        self.reader.join()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _status(port: int, path: str = "/readyz") -> int:
    try:
        with urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.timeout(400)
def test_it_starts_with_the_stripe_simulator_rejects_a_second_instance_and_stops_cleanly(
    data_dir: Path, port: int
) -> None:
    """The first start of all, with the demonstration. The simulator keeps what it knows when it is killed."""
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "models.internal"}
    server = Server(data_dir, port, STOA_STRIPE="demo", **proxy)
    server.wait_for("Starting the Stripe simulator, http://127.0.0.1:")
    server.wait_for(f"Stoa is ready at http://localhost:{port}")
    assert _status(port) < 500
    second = Server(data_dir, port)
    second.wait_for(f"Stoa already runs from {data_dir}, at http://localhost:{port}")
    assert second.process.wait(60) == 1
    second.reader.join()
    told = [process.environ() for process in server.family() if process.name() != "postgres"]
    bases = {environment["STRIPE_API_BASE"] for environment in told if "STRIPE_API_BASE" in environment}
    [key] = {environment["STRIPE_SECRET_KEY"] for environment in told if "STRIPE_SECRET_KEY" in environment}
    assert len(bases) == 1
    direct = {environment["NO_PROXY"] for environment in told if "STRIPE_API_BASE" in environment}
    assert direct == {"models.internal,127.0.0.1"}
    with requests.Session() as session:
        http = stripe.RequestsClient(session=session)
        client = stripe.StripeClient(key, base_addresses={"api": bases.pop()}, http_client=http)
        made = client.v1.customers.create({"email": "alice@example.org"})
        commands = load_settings(_env_file=None, stoa_data_dir=data_dir, stoa_stripe="demo")
        assert commands.stripe_secret_key is not None
        assert commands.stripe_secret_key.get_secret_value() == key
        assert (data_dir / SIMULATOR_ACCESS).stat().st_mode & 0o777 == 0o600
        _kill(data_dir, "stripe_simulator")
        server.wait_for("The Stripe simulator was killed by signal 9; restarting")
        assert (
            client.v1.customers.retrieve(made.id, options={"max_network_retries": 8}).email
            == "alice@example.org"
        )
    assert server.stop() == 0
    assert server.lines[-1] == "Stoa stopped"
    assert living(data_dir) == []
    assert load_settings(_env_file=None, stoa_data_dir=data_dir, stoa_stripe="demo").stripe_secret_key is None
    assert key not in "\n".join(server.lines)
    assert [line for line in server.lines if "Traceback" in line or "ERROR" in line] == []


@pytest.mark.timeout(400)
def test_it_recovers_when_any_process_is_killed(data_dir: Path, port: int) -> None:
    data_dir.mkdir()
    (data_dir / "demo_seeded").write_text("done")
    first = Server(data_dir, port)
    first.wait_for("Stoa is ready")
    _kill(data_dir, "gunicorn")
    first.wait_for("The web server was killed by signal 9; restarting")
    _wait_for_response(port)
    _kill(data_dir, "app:create_app work")
    first.wait_for("The job worker was killed by signal 9; restarting")
    os.kill(int((data_dir / "postgres/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    first.wait_for("PostgreSQL was killed; restarting it")
    _wait_for_response(port)
    first.kill()
    again = Server(data_dir, port)
    again.wait_for("Starting 1 web workers")
    os.kill(int((data_dir / "postgres/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    again.wait_for("PostgreSQL was killed; restarting it")
    again.wait_for("Stoa is ready")
    first.reader.join()
    assert _status(port) < 500
    assert again.stop(signal.SIGTERM) == 0
    assert living(data_dir) == []


def test_a_port_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ClickException, match=f"PORT: {port} is in use by another program"):
            _listen(load_settings(_env_file=None, port=port))


def test_localhost_is_listened_to_on_both_protocols(port: int) -> None:
    listeners = _listen(load_settings(_env_file=None, port=port))
    addresses = [listener.getsockname()[:2] for listener in listeners]
    for listener in listeners:
        listener.close()
    assert addresses[0] == ("127.0.0.1", port)
    assert addresses[1:] in ([], [("::1", port)])


def test_it_waits_for_an_unreachable_database(data_dir: Path, port: int) -> None:
    server = Server(data_dir, port, DATABASE_URL="postgresql://stoa:hunter2hunter2@127.0.0.1:1/stoa")
    server.wait_for("Waiting for 127.0.0.1:1/stoa")
    server.stop()
    assert not any("hunter2" in line for line in server.lines)


def _kill(data_dir: Path, command: str) -> None:
    """SIGKILL the oldest process of the server whose command line contains `command`."""
    mine = []
    for process in living(data_dir):
        with suppress(psutil.NoSuchProcess):
            if command in " ".join(process.cmdline()):
                mine.append(process)
    min(mine, key=lambda process: process.create_time()).kill()


def _wait_for_response(port: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if _status(port) < 500:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("no response")


def test_leftover_processes_are_stopped_and_reused_pids_are_not(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)", "gunicorn"]
    left = subprocess.Popen(sleeper, start_new_session=True)
    reused = subprocess.Popen(sleeper, start_new_session=True)
    created = psutil.Process(left.pid).create_time()
    record = ServeState(tmp_path)
    groups = [{"pid": left.pid, "created": created}, {"pid": reused.pid, "created": created + 100}]
    record.path.write_text(json.dumps({"state": "running", "groups": groups}))
    output: list[str] = []
    record.clear_leftovers(output.append)
    assert left.poll() is not None
    assert reused.poll() is None
    assert output == ["Stopping processes left over from a killed Stoa"]
    reused.kill()
    reused.wait()


def test_a_crashing_child_is_restarted_with_backoff(tmp_path: Path) -> None:
    output: list[str] = []
    child = ChildProcess("web server", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path, grace=1)
    record = ServeState(tmp_path)
    assert record.acquire(output.append)
    supervisor = Supervisor([child], record, "http://localhost", output.append)
    supervisor.start(child)
    end = time.monotonic() + 60
    while len(output) < 2 and time.monotonic() < end:
        supervisor._restart_crashed()
        time.sleep(0.02)
    supervisor.stop()
    record.release()
    assert output[:2] == [
        "The web server ended with code 3; restarting in 0.5 s",
        "The web server ended with code 3; restarting in 1 s",
    ]
