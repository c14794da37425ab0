"""Gateways to compare with, installed once with npm and pip and started as documented, without a database, cache or
request log."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load import Target, request

PORTKEY = "@portkey-ai/gateway@1.15.2"
LITELLM = "litellm[proxy]==1.106.2"
INSTALL_TIMEOUT = 900  # seconds


class PeerUnavailable(Exception):
    """The peer cannot be measured; the message is the reason."""


@contextmanager
def portkey(folder: Path, upstream_port: int) -> Iterator[Target]:
    """Portkey's open-source gateway, one Node process, as `npx @portkey-ai/gateway` starts it. Raises PeerUnavailable."""
    home = folder / "portkey"
    script = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise PeerUnavailable("node and npm are not installed")
    if not script.exists():
        home.mkdir(parents=True, exist_ok=True)
        _install([npm, "install", "--no-audit", "--no-fund", "--prefix", str(home), PORTKEY], "npm")
    port = _free_port()
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
        "Authorization": "Bearer sk-bench",
    }
    command = [node, str(script), f"--port={port}", "--headless"]
    with _started(command, home, port, {"NODE_ENV": "production"}):
        yield Target("portkey", port, [request("gpt-4o", headers)])


@contextmanager
def litellm(folder: Path, upstream_port: int) -> Iterator[Target]:
    """LiteLLM's proxy with two workers. Raises PeerUnavailable."""
    home = folder / "litellm"
    program = home / "bin" / "litellm"
    if not program.exists():
        shutil.rmtree(home, ignore_errors=True)
        _install([sys.executable, "-m", "venv", str(home)], "venv")
        _install([str(home / "bin" / "python"), "-m", "pip", "install", "-q", LITELLM], "pip")
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        "  - model_name: gpt-4o\n"
        "    litellm_params:\n"
        "      model: openai/gpt-4o\n"
        f"      api_base: http://127.0.0.1:{upstream_port}/v1\n"
        "      api_key: sk-bench\n"
        "litellm_settings:\n"
        "  telemetry: false\n"
        "general_settings:\n"
        "  master_key: sk-master\n"
    )
    port = _free_port()
    command = [
        str(program),
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "2",
    ]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    with _started(command, home, port, environment, path="/health/liveliness"):
        yield Target("litellm", port, [request("gpt-4o", {"Authorization": "Bearer sk-master"})])


def _install(command: list[str], client: str) -> None:
    print(f"  installing with {client}: {command[-1]}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailable(f"{client} did not finish: {error}") from None
    if done.returncode:
        output = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise PeerUnavailable(f"{client} could not install it: {output[-1] if output else done.returncode}")


@contextmanager
def _started(
    command: list[str], home: Path, port: int, environment: dict[str, str], path: str = "/"
) -> Iterator[None]:
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with open(home / "bench.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=home, env=inherited | environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait(process, port, path, home / "bench.log")
            yield
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, path: str, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PeerUnavailable(f"it exited; see {log}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.sendall(
                    f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
                )
                connection.settimeout(5)
                if connection.recv(12).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        time.sleep(0.3)
    raise PeerUnavailable(f"it was not ready within two minutes; see {log}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
