"""`flask store import`: the outcome of each definition, and that repeating it changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.audit_log import AuditLog
from models.store import Agent, AgentConfig, AgentVersion, Publisher
from tests import factories
from tests.factories import Person

Bring = Callable[..., Result]


@pytest.fixture
def run_import(app: Flask) -> Bring:
    """Run `flask store import` on a folder or file."""
    runner = app.test_cli_runner()

    def run(place: Path, publisher: str = "acme") -> Result:
        return runner.invoke(args=["store", "import", str(place), "--publisher", publisher])

    return run


@pytest.fixture
def mine(session: OrmSession, alice: Person) -> Publisher:
    assert alice.user
    return factories.publisher(alice.user)


def write(folder: Path, name: str, *values: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values[0] if len(values) == 1 else values))


def definition(id: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "displayName": id.title(), "model": "stoa/demo", **more}


CALLING = {"toolNames": ["spawn_agents"]}


def test_a_folder_is_published_once(
    run_import: Bring, mine: Publisher, session: OrmSession, tmp_path: Path
) -> None:
    write(tmp_path, "deep/one.json", definition("one", **CALLING, spawnableAgents=["two"], publisher="other"))
    (tmp_path / "two.yaml").write_text(
        "id: two\ndisplayName: Two\nmodel: stoa/demo\nversion: 1.4.0\n"
        "toolNames: [spawn_agents]\nspawnableAgents: [one, acme/three]\ninstructionsPrompt: |\n  Look.\n  Say.\n"
        "---\nid: three\ndisplayName: Three\nmodel: stoa/demo\ntags: [2024-01-01]\n"
    )
    write(tmp_path, "package.json", {"name": "something", "version": "1.0.0"})
    write(tmp_path, "node_modules/x/agent.json", definition("hidden"))
    (tmp_path / "link.json").symlink_to(tmp_path / "deep/one.json")
    agent = "export default {id: 'four', displayName: 'Four', model: 'stoa/demo'} satisfies AgentDefinition"
    (tmp_path / "four.ts").write_text(f"import type {{ AgentDefinition }} from './types'\n{agent}\n")
    (tmp_path / "types.ts").write_text("export interface AgentDefinition { id: string }\n")
    first = run_import(tmp_path)
    assert first.exit_code == 0, first.output
    assert first.output.splitlines() == [
        "published  deep/one.json: acme/one@0.0.1",
        "published  four.ts: acme/four@0.0.1",
        "published  two.yaml[0]: acme/two@1.4.0",
        "published  two.yaml[1]: acme/three@0.0.1",
        "4 published, 0 unchanged, 0 refused.",
    ]
    two = session.scalars(select(AgentConfig).where(AgentConfig.id == "two")).one()
    assert two.data["spawnableAgents"] == ["acme/one@0.0.1", "acme/three@0.0.1"]
    assert two.data["instructionsPrompt"] == "Look.\nSay.\n"
    assert session.scalars(select(Agent.tags).where(Agent.id == "three")).one() == ["2024-01-01"]
    kinds = session.execute(select(AgentVersion.credential, AgentVersion.published_by).distinct()).all()
    assert [tuple(row) for row in kinds] == [("import", None)]
    assert len(session.scalars(select(AuditLog).where(AuditLog.action == "agent.published")).all()) == 4

    again = run_import(tmp_path)
    assert again.exit_code == 0
    assert again.output.splitlines() == [
        "unchanged  deep/one.json: acme/one@0.0.1",
        "unchanged  four.ts: acme/four@0.0.1",
        "unchanged  two.yaml[0]: acme/two@1.4.0",
        "unchanged  two.yaml[1]: acme/three@0.0.1",
        "0 published, 4 unchanged, 0 refused.",
    ]


def test_what_changed_becomes_a_version(
    run_import: Bring, mine: Publisher, session: OrmSession, tmp_path: Path
) -> None:
    write(tmp_path, "agents.json", definition("one"), definition("two", version="1.0.0"))
    assert run_import(tmp_path).exit_code == 0
    write(tmp_path, "agents.json", definition("one", stepPrompt="Go."), definition("two", version="1.0.1"))
    assert run_import(tmp_path).output.splitlines()[:2] == [
        "published  agents.json[0]: acme/one@0.0.2",
        "published  agents.json[1]: acme/two@1.0.1",
    ]
    write(tmp_path, "agents.json", definition("two", version="1.0.1", stepPrompt="Go."))
    refused = run_import(tmp_path)
    assert refused.exit_code == 1
    assert refused.output.splitlines() == [
        "refused    agents.json: Version 1.0.1 is already published with other content. Use a greater version.",
        "0 published, 0 unchanged, 1 refused.",
    ]
    write(tmp_path, "agents.json", definition("two", version="0.9.0"))
    assert "must be greater than the latest version (1.0.1)" in run_import(tmp_path).output


def test_large_numbers_are_unchanged(run_import: Bring, mine: Publisher, tmp_path: Path) -> None:
    numbers = [1e23, 1.5e300, 2**53 + 1, 2**64, 0.1, -0.0, 1e-9, 5e-324]
    write(tmp_path, "great.json", definition("great", inputSchema={"numbers": numbers}))
    assert run_import(tmp_path).output.splitlines()[0] == "published  great.json: acme/great@0.0.1"
    assert run_import(tmp_path).output.splitlines()[0] == "unchanged  great.json: acme/great@0.0.1"


def test_a_refused_definition_fails_only_its_dependents(
    run_import: Bring, mine: Publisher, session: OrmSession, tmp_path: Path
) -> None:
    write(tmp_path, "a.json", definition("good"))
    write(tmp_path, "b.json", definition("bad", outputMode="loud"))
    write(tmp_path, "c.json", definition("needs-bad", **CALLING, spawnableAgents=["bad"]))
    write(tmp_path, "d.json", definition("needs-c", **CALLING, spawnableAgents=["acme/needs-bad"]))
    write(tmp_path, "e.json", definition("far", **CALLING, spawnableAgents=["nobody/none@1.0.0"]))
    write(tmp_path, "f.json", definition("good"))
    (tmp_path / "g.json").write_text('{"id": ')
    (tmp_path / "h.yml").write_text("a: &a [x]\nb: [*a, *a]\n")
    write(tmp_path, "i.json", definition("v", version="1.0"))
    write(tmp_path, "j.json", definition("nul\u0000"))
    result = run_import(tmp_path)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "published  a.json: acme/good@0.0.1"
    assert 'Agent "bad" (Bad): Schema validation failed' in result.output
    for message in (
        "c.json: Invalid spawnable agent: 'bad' has no published versions to resolve to.",
        "d.json: Invalid spawnable agent: 'acme/needs-bad' has no published versions to resolve to.",
        "e.json: Invalid agent ID: nobody/none@1.0.0. Agent not found in database.",
        "f.json: a.json already defines the agent good.",
        "g.json: Invalid JSON",
        "h.yml: Unsupported YAML: aliases are not allowed",
        "i.json: Invalid version format: 1.0. Must be in semver format (e.g., 1.0.0).",
        "The definition contains a NUL character. Remove it.",
    ):
        assert message in result.output
    assert lines[-1] == "1 published, 0 unchanged, 9 refused."
    assert session.scalars(select(AgentConfig.id)).all() == ["good"]


def test_a_byte_order_mark_is_no_part_of_a_file(run_import: Bring, mine: Publisher, tmp_path: Path) -> None:
    for name in ("a.json", "b.yaml"):
        (tmp_path / name).write_text(json.dumps(definition(name[0])), encoding="utf-8-sig")
    assert run_import(tmp_path).output.splitlines()[-1] == "2 published, 0 unchanged, 0 refused."


def test_control_characters_are_not_printed(run_import: Bring, mine: Publisher, tmp_path: Path) -> None:
    write(tmp_path, "\x1b[31m\u202enosj.json", definition("one", displayName="\x1b[2J"))
    output = run_import(tmp_path).output
    assert "one" in output
    assert not set(output) & {"\x1b", "\u202e"}


def test_hostile_yaml_is_refused_quickly(run_import: Bring, mine: Publisher, tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    (tmp_path / "bomb.yaml").write_text(bomb)
    (tmp_path / "deep.yaml").write_text("[" * 20_000)
    (tmp_path / "code.yaml").write_text("!!python/object/apply:os.system ['true']")
    (tmp_path / "bytes.yaml").write_text("id: !!binary aGVsbG8=\nmodel: x\n")
    (tmp_path / "large.yaml").write_text("#" * 5_000_001)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    result = run_import(tmp_path)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "0 published, 0 unchanged, 6 refused."


def test_a_single_file_is_always_imported(run_import: Bring, mine: Publisher, tmp_path: Path) -> None:
    write(tmp_path, "x.json", {"displayless": 1})
    result = run_import(tmp_path / "x.json")
    assert result.exit_code == 1
    assert "Agent in x.json: Schema validation failed" in result.output


def test_there_must_be_such_a_publisher(run_import: Bring, tmp_path: Path) -> None:
    write(tmp_path, "x.json", definition("one"))
    result = run_import(tmp_path, "nobody")
    assert (result.exit_code, result.stderr) == (1, "Error: Publisher not found\n")
    assert run_import(tmp_path / "none").exit_code == 2
