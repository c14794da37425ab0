"""Claude Code, Codex, opencode and aider, unmodified, against a started server: a text turn, a tool turn, their runs and their bill.

`make clients` installs them into STOA_CODING_CLIENTS; without it, or without one of them, its tests are skipped.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.gateway import GatewayCall
from models.runs import AgentRun
from tests import factories
from tests.factories import Person
from tests.server import running

FOLDER = Path(os.environ.get("STOA_CODING_CLIENTS") or "/nowhere").resolve()
NODE = FOLDER / "node_modules" / ".bin"
MODEL = "stoa/demo"
OK = "echo stoa-$((40 + 2))"

pytestmark = [pytest.mark.clients, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def address(app: Flask, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(postgres_url, tmp_path_factory.mktemp("coding"), workers=2) as address:
        yield address


@pytest.fixture
def rich(session: OrmSession, alice: Person) -> Person:
    assert alice.user is not None
    factories.grant(alice.user, 1000)
    return alice


class Client:
    """A client that is installed, started in a directory of its own."""

    def __init__(self, program: Path, home: Path, environment: dict[str, str]) -> None:
        self.program, self.home = program, home
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "xterm", **environment}

    def run(self, *arguments: str) -> str:
        found = subprocess.run(
            [self.program, *arguments],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
        return found.stdout


def program(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not installed (make clients)")
    return path


@pytest.fixture
def claude(tmp_path: Path, address: str) -> Callable[..., Client]:
    def make(**environment: str) -> Client:
        quiet = {
            "CLAUDE_CONFIG_DIR": str(tmp_path),
            "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
            "ANTHROPIC_MODEL": MODEL,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
        }
        return Client(program(NODE / "claude"), tmp_path, quiet | environment)

    return make


def billed(session: OrmSession, title: str, *, at_least: int) -> AgentRun:
    """The run of the client's session, to which all calls belong, which are settled."""
    session.rollback()
    calls = session.scalars(select(GatewayCall)).all()
    assert len(calls) >= at_least
    assert {(call.state, call.http_status, call.error) for call in calls} == {("settled", 200, None)}
    assert all(call.uncached_input_tokens and call.output_tokens for call in calls)
    root = session.scalars(select(AgentRun).where(AgentRun.depth == 1, AgentRun.agent_id == title)).one()
    assert {call.run_id for call in calls} <= set(session.scalars(select(AgentRun.id)))
    assert root.id in {call.run_id for call in calls}
    return root


def test_claude_code(session: OrmSession, rich: Person, address: str, claude: Callable[..., Client]) -> None:
    client = claude(ANTHROPIC_BASE_URL=address, ANTHROPIC_AUTH_TOKEN=rich.token)
    said = json.loads(client.run("-p", "Say hello", "--output-format", "json"))
    assert (said["is_error"], bool(said["result"])) == (False, True)
    events = client.run(
        *("-p", f"Use Bash with `{OK}`", "--continue", "--allowedTools", "Bash"),
        *("--output-format", "stream-json", "--verbose"),
    )
    assert "stoa-42" in events
    billed(session, "claude-code", at_least=3)
    assert "Claude Code session" in rich.browser.get("/runs").text


def test_codex(session: OrmSession, rich: Person, address: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        f'model = "{MODEL}"\nmodel_provider = "stoa"\ncheck_for_update_on_startup = false\n'
        "[analytics]\nenabled = false\n"
        f'[model_providers.stoa]\nname = "Stoa"\nbase_url = "{address}/v1"\nenv_key = "STOA_KEY"\n'
        'wire_api = "responses"\nrequest_max_retries = 0\nstream_max_retries = 0\n'
    )
    client = Client(program(NODE / "codex"), tmp_path, {"CODEX_HOME": str(tmp_path), "STOA_KEY": rich.token})
    run = ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json")
    assert '"turn.completed"' in client.run(*run, "Say hello")
    # the demo model takes the first quoted text of the turn, which is of Codex's own words: what matters is that it was run
    said = client.run(*run, f"Use exec_command with `{OK}`")
    assert '"command_execution"' in said, said
    assert "exec_command answered" in said, said
    session.rollback()
    runs = session.scalars(select(AgentRun)).all()
    assert [run.agent_id for run in runs] == ["codex"] * 2, "a session each"
    calls = session.scalars(select(GatewayCall)).all()
    assert (len(calls), {call.state for call in calls}) == (3, {"settled"})
    assert "Codex session" in rich.browser.get("/runs").text


def test_opencode(session: OrmSession, rich: Person, address: str, tmp_path: Path) -> None:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Stoa",
        "options": {"baseURL": f"{address}/v1", "apiKey": rich.token},
        "models": {MODEL: {}},
    }
    config = {
        "model": f"stoa/{MODEL}",
        "small_model": f"stoa/{MODEL}",
        "autoupdate": False,
        "share": "disabled",
        "provider": {"stoa": provider},
    }
    (tmp_path / "opencode.json").write_text(json.dumps(config))
    quiet = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")
    client = Client(program(NODE / "opencode"), tmp_path, {f"OPENCODE_DISABLE_{name}": "1" for name in quiet})
    assert '"text"' in client.run("run", "--format", "json", "Say hello")
    assert "stoa-42" in client.run("run", "--format", "json", f"Use bash with `{OK}`")
    session.rollback()
    assert {run.agent_id for run in session.scalars(select(AgentRun))} == {"opencode"}
    calls = session.scalars(select(GatewayCall)).all()
    assert (len(calls) >= 3, {call.state for call in calls}) == (True, {"settled"})


def test_aider(session: OrmSession, rich: Person, address: str, tmp_path: Path) -> None:
    prices = tmp_path / ".aider" / "caches" / "model_prices_and_context_window.json"
    prices.parent.mkdir(parents=True)
    prices.write_text('{"x": {}}')  # else it fetches them
    client = Client(
        program(FOLDER / "aider" / "bin" / "aider"),
        tmp_path,
        {"OPENAI_API_BASE": f"{address}/v1", "OPENAI_API_KEY": rich.token},
    )
    said = client.run(
        *("--model", f"openai/{MODEL}", "--message", "Say hello", "--no-git", "--yes-always"),
        *("--no-check-update", "--no-show-model-warnings", "--analytics-disable", "--no-pretty"),
    )
    assert "Tokens:" in said
    session.rollback()
    calls = session.scalars(select(GatewayCall)).all()
    assert {call.state for call in calls} == {"settled"}
