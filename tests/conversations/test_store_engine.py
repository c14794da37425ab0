"""Conversations that an agent of the store answers: its prompts, its tools, the agents that it spawns, and their caps."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import select

from models.conversations import start_conversation
from models.conversations.engines.store_agent import NeedsClient, store_agent
from models.conversations.engines.sub_agents import MAX_DEPTH
from models.core.db import db
from models.core.errors import Invalid
from models.gateway import GatewayCall
from models.gateway.demo_turns import DemoTurn
from models.runs import AgentRun
from models.store import Publisher
from models.threads import ThreadMessage
from tests import factories
from tests.conversations.talks import FILES, Talk
from tests.factories import Person

EDITOR = {"toolNames": ["read_files", "str_replace", "write_file", "code_search", "web_search", "end_turn"]}
EDIT = "In README.md replace 'Twelve' with 'Twenty'."


@pytest.fixture
def harbor(rich: Person) -> Publisher:
    """Alice's publisher."""
    return factories.publisher(rich.user, "harbor")


def publish(publisher: Publisher, id: str, **more: Any) -> None:
    definition = {"displayName": id.title(), "model": "stoa/demo", "systemPrompt": f"You are {id}.", **more}
    factories.agent_version(publisher, id, "1.0.0", definition)
    db.session.commit()


def talk_with(talk: Talk, agent: str) -> Talk:
    """A conversation about the same workspace, that the agent answers."""
    talk.id = start_conversation(
        talk.caller(), talk.workspace_id, engine="store", agent=agent
    ).conversation.id
    db.session.commit()
    return talk


def runs() -> list[AgentRun]:
    return list(db.session.scalars(select(AgentRun).order_by(AgentRun.created_at, AgentRun.id)))


def test_an_agent_of_the_store_answers_as_its_own_run(talk: Talk, harbor: Publisher) -> None:
    publish(harbor, "mason", **EDITOR, stepPrompt="Be brief.", runBudget=500)
    turn = talk_with(talk, "harbor/mason").said(EDIT)
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    assert talk.files() == {**FILES, "README.md": "# Pier\n\nTwenty columns.\n"}
    [run] = runs()
    assert (run.id, run.agent_id, run.status) == (turn.run_id, "harbor/mason@1.0.0", "completed")
    billed = db.session.scalars(select(GatewayCall).where(GatewayCall.run_id == run.id)).all()
    assert sum(each.credits for each in billed) == turn.credits


def test_a_definition_becomes_tools_of_the_workplace(harbor: Publisher) -> None:
    publish(
        harbor,
        "mason",
        **EDITOR,
        instructionsPrompt="Build.",
        stepPrompt="Be brief.",
        outputMode="structured_output",
        outputSchema={"type": "object"},
        reasoningOptions={"effort": "low"},
    )
    found = store_agent("harbor/mason")
    assert found.tools == {"read_file", "edit_file", "write_file", "search"}
    assert found.params == {"reasoning_effort": "low"}
    assert found.instructions == (
        "You are mason.\n\nBuild.\n\nBefore each step: Be brief.\n\n"
        'Your last message is JSON only, and fits this schema: {"type":"object"}\n\n'
        "These tools of yours are not there: web_search. Do without them."
    )


@pytest.mark.parametrize(
    "reference",
    ["", "mason", "/", "harbor/none", "none/mason", "harbor/mason@9.0.0", "harbor/ma\0son", "x" * 400],
)
def test_an_agent_that_is_not_there_is_refused(talk: Talk, harbor: Publisher, reference: str) -> None:
    publish(harbor, "mason")
    with pytest.raises(Invalid):
        start_conversation(talk.caller(), talk.workspace_id, engine="store", agent=reference)


def test_an_agent_with_code_is_refused_with_what_would_run_it(talk: Talk, harbor: Publisher) -> None:
    publish(harbor, "coder", handleSteps="function* () {}")
    with pytest.raises(
        NeedsClient, match=r"harbor/coder@1\.0\.0 has steps written in code .* Codebuff client"
    ):
        start_conversation(talk.caller(), talk.workspace_id, engine="store", agent="harbor/coder")


def test_an_agent_with_mcp_servers_is_refused_and_not_run_without_them(talk: Talk, harbor: Publisher) -> None:
    servers = {"docs": {"type": "http", "url": "https://docs.example"}, "local": {"command": "docs"}}
    publish(harbor, "reader", mcpServers=servers)
    with pytest.raises(NeedsClient, match=r"harbor/reader@1\.0\.0 uses MCP servers \(docs, local\)"):
        start_conversation(talk.caller(), talk.workspace_id, engine="store", agent="harbor/reader")
    publish(harbor, "plain", mcpServers={})
    assert store_agent("harbor/plain").missing == []


def spawns(publisher: Publisher, *references: str) -> dict[str, Any]:
    return {"toolNames": ["spawn_agents"], "spawnableAgents": list(references)}


def test_a_spawned_agent_works_on_the_same_files_and_is_a_run_below(talk: Talk, harbor: Publisher) -> None:
    publish(harbor, "mason", **EDITOR)
    publish(harbor, "chief", **spawns(harbor, "harbor/mason@1.0.0"))
    turn = talk_with(talk, "harbor/chief").said(
        "Call spawn_agents with the agent harbor/mason@1.0.0 to add a file notes.md saying Remember the roof"
    )
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    assert talk.files()["notes.md"] == "Remember the roof\n"
    top, below = runs()
    assert (below.agent_id, below.ancestor_run_ids, below.status) == (
        "harbor/mason@1.0.0",
        [top.id],
        "completed",
    )
    billed = db.session.scalars(select(GatewayCall)).all()
    assert {each.run_id for each in billed} == {top.id, below.id}
    assert sum(each.credits for each in billed) == turn.credits


def scripted(monkeypatch: pytest.MonkeyPatch, agents: list[dict[str, Any]]) -> None:
    """The model spawns these agents once in each conversation that may, and then answers."""

    def answer(body: Mapping[str, Any]) -> DemoTurn:
        offered = {tool["function"]["name"] for tool in body.get("tools") or ()}
        done = any(message["role"] == "tool" for message in body["messages"])
        if "spawn_agents" in offered and not done:
            return DemoTurn(tool="spawn_agents", arguments=json.dumps({"agents": agents}))
        return DemoTurn("Done.")

    monkeypatch.setattr("models.gateway.demo_model.next_turn", answer)


def results_of(turn_id: str) -> list[dict[str, Any]]:
    tool = db.session.scalars(
        select(ThreadMessage).where(ThreadMessage.turn_id == turn_id, ThreadMessage.role == "tool")
    ).one()
    found: list[dict[str, Any]] = json.loads(tool.text)
    return found


def test_a_storm_of_200_agents_ends_at_the_cap(
    talk: Talk, harbor: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(harbor, "mason")
    publish(harbor, "chief", **spawns(harbor, "harbor/mason@1.0.0"))
    scripted(monkeypatch, [{"agent_type": "mason", "prompt": "Build."}] * 200)
    turn = talk_with(talk, "harbor/chief").said("Storm.")
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    results = results_of(turn.id)
    assert [each.get("answer") for each in results[:-1]] == ["Done."] * 20
    assert results[-1] == {"error": "180 more were not run: a turn spawns at most 20 agents."}
    found = runs()
    assert len(found) == 21
    assert {each.status for each in found} == {"completed"}
    billed = db.session.scalars(select(GatewayCall)).all()
    assert (len(billed), sum(each.credits for each in billed)) == (22, turn.credits)


def test_agents_that_spawn_each_other_end_at_the_depth(
    talk: Talk, harbor: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(harbor, "echo", **spawns(harbor, "harbor/echo@1.0.0"))
    scripted(monkeypatch, [{"agent_type": "harbor/echo", "prompt": "Again."}] * 2)
    turn = talk_with(talk, "harbor/echo").said("Begin.")
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    depths = [len(each.ancestor_run_ids or ()) for each in runs()]
    assert max(depths) == MAX_DEPTH
    assert len(depths) == 1 + 2 + 4 + 8


def test_what_cannot_be_spawned_is_told_to_the_model(
    talk: Talk, harbor: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(harbor, "coder", handleSteps="function* () {}")
    publish(harbor, "chief", **spawns(harbor, "harbor/coder@1.0.0"))
    wanted = [{"agent_type": "coder", "prompt": "x"}, {"agent_type": "stranger/agent"}, {}, "x"]
    scripted(monkeypatch, wanted)  # type: ignore[arg-type]
    turn = talk_with(talk, "harbor/chief").said("Begin.")
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    errors = [each["error"] for each in results_of(turn.id)]
    assert "steps written in code" in errors[0]
    assert all("may spawn: harbor/coder@1.0.0" in error for error in errors[1:])
    assert len(runs()) == 1
