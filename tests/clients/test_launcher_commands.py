"""The launcher as a shell starts it: the copied line, sign-in, publishing, exit codes, hostile prompts, Ctrl-C."""

import html
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import Session
from models.runs import AgentRun
from models.store import Publisher
from tests import factories
from tests.accounts.browsing import token_of
from tests.clients.test_codebuff_sdk import sdk
from tests.factories import Person
from tests.server import running

__all__ = ["sdk"]

BASE = "http://localhost:8000"
BROWSER = {"User-Agent": "Mozilla/5.0", "Sec-Fetch-Site": "same-origin"}

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (shutil.which("node") and shutil.which("npm") and shutil.which("curl")),
        reason="Node.js or curl is not installed",
    ),
]


@pytest.fixture(scope="module")
def address(app: Flask, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("launcher-server")
    with running(postgres_url, data, workers=1, STOA_DEMO_DELAY_MS="20") as address:
        yield address


@pytest.fixture
def shell(sdk: Path, address: str, tmp_path: Path) -> "Shell":
    """A folder with the launcher of this server, and an npm that takes the packages from `sdk`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    npm = programs / "npm"
    npm.write_text(
        f'#!/bin/sh\necho "$*" > {tmp_path}/npm-arguments\nln -s {sdk}/node_modules node_modules\n'
    )
    npm.chmod(0o755)
    return Shell(address, tmp_path)


class Shell:
    """Starts programs in a folder of their own, with a home of their own."""

    def __init__(self, address: str, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "HOME": str(folder),
            "STOA_URL": address,
        }
        self.get = ["curl", "-fsSO", f"{address}/clients/stoa.mjs"]
        subprocess.run(self.get, cwd=folder, check=True, timeout=20)

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, **environment: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        process = self.start(*command, **environment)
        output, errors = process.communicate(timeout=90)
        return process.returncode, output, errors

    def stoa(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        return self.run("node", "stoa.mjs", *arguments, **environment)


@pytest.fixture
def echo(session: OrmSession, alice: Person) -> Person:
    """alice with credits, her publisher `acme` and its agent `echo`."""
    assert alice.user is not None
    factories.grant(alice.user, 1000)
    factories.agent(factories.publisher(alice.user), "echo")
    return alice


def test_the_copied_line_runs_the_agent_and_says_link_and_credits(
    shell: Shell, address: str, echo: Person, session: OrmSession
) -> None:
    card = re.search(
        r'agent-card__use" data-copy-scope><code>(.*?)</code>', echo.browser.get("/store").text, re.S
    )
    assert card
    line = html.unescape(card[1]).replace(BASE, address)
    line = line.replace('"Introduce yourself."', '"Answer in 3 words."')
    (shell.folder / "stoa.mjs").unlink()
    code, output, errors = shell.run("sh", "-c", line, STOA_KEY=echo.token)
    assert code == 0, errors
    run = session.scalars(select(AgentRun).where(AgentRun.user_id == echo.id)).one()
    assert run.status == "completed"
    assert output.strip()
    assert f"Run {BASE}/runs/{run.id} · completed · " in errors
    assert "Warning" not in errors
    arguments = (shell.folder / "npm-arguments").read_text()
    assert arguments.startswith("ci --ignore-scripts")


@pytest.mark.parametrize("prompt", ["$(touch pwned) `touch pwned`; '\"\\\n\u202e\x1b[2J", "--json"])
def test_a_hostile_prompt_is_only_text(shell: Shell, echo: Person, prompt: str) -> None:
    code, output, errors = shell.stoa("run", "acme/echo", "--", prompt, STOA_KEY=echo.token)
    assert code == 0, errors
    assert "\x1b" not in output + errors
    assert not (shell.folder / "pwned").exists()


def test_json_and_exit_codes(shell: Shell, echo: Person, bob: Person) -> None:
    code, output, _ = shell.stoa(
        "run", "acme/echo@1.0.0", "Answer in 3 words.", "--json", STOA_KEY=echo.token
    )
    result = json.loads(output)
    assert (code, result["status"], result["error"]) == (0, "completed", None)
    assert result["text"]
    key = {"STOA_KEY": echo.token}
    table: list[tuple[int, str, tuple[str, ...], dict[str, str]]] = [
        (0, '"runId"', ("runs", "--limit", "1", "--json"), key),
        (0, "credits available", ("usage",), key),
        (1, "has no agent 'missing'", ("run", "acme/missing", "x"), key),
        (2, "Put the prompt in quotes", ("run", "acme/echo", "two", "words"), key),
        (2, "Name an agent of the store", ("run", "../etc", "x"), key),
        (2, "The prompt is empty", ("run", "acme/echo", " "), key),
        (2, "Unknown option", ("usage", "--shoot"), key),
        (2, "There is no command", ("constructor",), key),
        (2, "is not the address of a server", ("usage", "--url", "ftp://x"), key),
        (3, "Not signed in", ("usage",), {}),
        (3, "Invalid auth token", ("usage",), {"STOA_KEY": "unknown"}),
        (3, "not an API key", ("usage",), {"STOA_KEY": "two words"}),
        (4, "redit", ("run", "acme/echo", "x"), {"STOA_KEY": bob.token}),
        (5, "cannot be reached", ("usage", "--url", "http://127.0.0.1:9"), key),
        (5, "cannot be reached", ("run", "acme/echo", "x", "--url", "http://127.0.0.1:9"), key),
        (3, "Invalid API key", ("run", "acme/echo", "x"), {"STOA_KEY": "unknown"}),
    ]
    for expected, said, arguments, environment in table:
        code, output, errors = shell.stoa(*arguments, **environment)
        assert (code, said in output + errors) == (expected, True), (arguments, code, output, errors)


def test_agents_change_nothing_here_unless_allowed(shell: Shell, echo: Person, session: OrmSession) -> None:
    publisher = session.get_one(Publisher, "acme")
    tools = ["run_terminal_command", "write_file", "end_turn"]
    factories.agent(publisher, "tooled", data={"toolNames": tools})
    factories.agent(
        publisher, "server", data={"mcpServers": {"own": {"command": "touch", "args": ["pwned"]}}}
    )
    for arguments, expected, said in (
        (
            ("acme/tooled", "Use run_terminal_command to touch pwned."),
            0,
            "may not run commands; --allow-commands",
        ),
        (("acme/tooled", "Use write_file to write pwned."), 0, "may not change files; --allow-edits"),
        (("acme/server", "Hello"), 1, "starts programs on this computer (MCP servers)"),
    ):
        before = {each.name for each in shell.folder.iterdir()}
        code, _, errors = shell.stoa("run", *arguments, STOA_KEY=echo.token)
        assert (code, said in errors) == (expected, True), errors
        assert {each.name for each in shell.folder.iterdir()} - before <= {".cache", "npm-arguments"}


def test_a_failed_installation_says_what_npm_said(shell: Shell, echo: Person) -> None:
    (shell.folder / "bin" / "npm").write_text("#!/bin/sh\necho 'npm error network offline' >&2\nexit 1\n")
    code, _, errors = shell.stoa("run", "acme/echo", "x", STOA_KEY=echo.token)
    assert (code, "npm error network offline" in errors) == (6, True)
    assert [each.name for each in (shell.folder / ".cache" / "stoa").iterdir()] == []


def test_publishing_is_all_or_none(shell: Shell, echo: Person) -> None:
    agents = shell.folder / "agents"
    agents.mkdir()
    for name in ("one", "two"):
        definition = {"id": name, "displayName": name, "model": "stoa/demo"}
        (agents / f"{name}.json").write_text(json.dumps(definition))
    code, output, errors = shell.stoa(
        "publish", "agents", "--publisher", "acme", "--json", STOA_KEY=echo.token
    )
    assert code == 0, errors
    assert [each["id"] for each in json.loads(output)["published"]] == ["acme/one@0.0.1", "acme/two@0.0.1"]
    module = (
        "export default { id: 'one', displayName: 'One', model: 'stoa/demo' } satisfies AgentDefinition\n"
    )
    (agents / "two.json").write_text(json.dumps({"id": "two", "displayName": "two", "model": "stoa/demo"}))
    (agents / "one.json").rename(shell.folder / "old.json")
    (agents / "one.ts").write_text(module)
    (agents / "types.ts").write_text("export interface AgentDefinition {}\n")
    options = ("--publisher", "acme", "--license", "mit", "--changelog", "Now in TypeScript")
    code, output, errors = shell.stoa("publish", "agents", *options, "--json", STOA_KEY=echo.token)
    assert code == 0, errors
    assert [each["id"] for each in json.loads(output)["published"]] == ["acme/one@0.0.2", "acme/two@0.0.2"]
    code, output, _ = shell.stoa("publish", "agents/one.ts", "--publisher", "acme", STOA_KEY=echo.token)
    assert "acme/one@0.0.3" in output
    (agents / "one.ts").write_text(module.replace("'One'", "name()"))
    code, _, errors = shell.stoa("publish", "agents", STOA_KEY=echo.token)
    assert (code, "one.ts: Line 1, column 42: A call" in errors) == (1, True), errors
    (agents / "two.json").write_text("{")
    (agents / "one.ts").unlink()
    code, _, errors = shell.stoa("publish", "agents", STOA_KEY=echo.token)
    assert (code, "two.json is not JSON" in errors) == (1, True)


def answer(person: Person, shell: Shell, path: str) -> tuple[int, str, str]:
    """Start a sign-in, and answer it with the form of the page."""
    process = shell.start("node", "stoa.mjs", "login")
    assert process.stderr is not None
    told = "".join(process.stderr.readline() for _ in range(3))
    url, code = re.search(r"http\S+auth_code=(\S+)", told), re.search(r"code (\w{4}-\w{4})", told)
    assert url, told
    assert code, told
    page = person.browser.get(f"/login?auth_code={url[1]}", headers=BROWSER)
    assert code[1] in page.text
    assert "stoa.mjs" in page.text
    form = {"csrf_token": token_of(page), "auth_code": url[1]}
    assert person.browser.post(path, data=form, headers=BROWSER).status_code == 303
    output, errors = process.communicate(timeout=30)
    return process.returncode, output, errors


def test_sign_in_by_browser_stores_a_private_key_and_sign_out_deletes_it(
    shell: Shell, echo: Person, session: OrmSession
) -> None:
    code, _, errors = answer(echo, shell, "/onboard/refusal")
    assert (code, "refused in the browser" in errors) == (3, True)
    code, output, errors = answer(echo, shell, "/onboard")
    assert (code, "as alice@example.org" in output) == (0, True), errors
    stored = shell.folder / ".config" / "stoa" / "credentials.json"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert shell.stoa("usage")[0] == 0
    held = select(Session).where(Session.type == "cli")
    assert len(session.scalars(held).all()) == 1
    assert shell.stoa("logout")[0] == 0
    assert json.loads(stored.read_text()) == {}
    session.expire_all()
    assert session.scalars(held).all() == []


def test_ctrl_c_cancels_the_run(shell: Shell, echo: Person, session: OrmSession) -> None:
    process = shell.start("node", "stoa.mjs", "run", "acme/echo", "Write 20 pages.", STOA_KEY=echo.token)
    started = select(AgentRun).where(AgentRun.user_id == echo.id)
    for _ in range(200):
        session.rollback()
        if session.scalars(started).first():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    session.rollback()
    run: Any = session.scalars(started).one()
    assert run.status == "cancelled"
    assert run.id in errors
