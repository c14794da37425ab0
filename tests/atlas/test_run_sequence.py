"""The sequence of a recorded run: who called whom, as picture, as table and as text, whatever names and however many calls it has."""

import html
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session as OrmSession

from models.atlas.diagram_layout import laid_out
from models.atlas.diagrams import ProjectDiagram, diagram_of
from models.atlas.mermaid_text import mermaid_of
from models.atlas.run_sequence import MAX_MESSAGES, MAX_PARTICIPANTS, run_sequence
from models.gateway.demo_turns import DemoTurn
from models.gateway.upstream import BrokenConnection
from models.ledger import Account
from models.projects import Project
from models.runs import AgentRun
from tests import factories
from tests.atlas.atlas_rows import SHOP, Shop, indexed, shop_rows
from tests.factories import Person, now
from tests.projects.project_rows import caller_of, pushed

RUNS, CHAT = "/api/v1/agent-runs", "/api/v1/chat/completions"
HOSTILE = 'x"><script>alert(1)</script>\nend\nparticipant evil as %%{init: {}}%% \u202e|];#quot;'


@pytest.fixture
def shop(session: OrmSession, alice: Person) -> Shop:
    found = shop_rows(alice.id, Account(user_id=alice.id))
    indexed(session, found.project)
    return found


def changed_by(session: OrmSession, alice: Person, shop: Shop, run_id: str) -> Project:
    """The project after a run made a snapshot of it."""
    caller = caller_of(alice.id, Account(user_id=alice.id))
    pushed(
        caller,
        shop.project,
        shop.workspace,
        {**SHOP, "by.md": run_id},
        "By a run",
        shop.snapshot,
        run_id=run_id,
    )
    session.commit()
    return session.get_one(Project, shop.project)


def answered(body: Mapping[str, Any]) -> DemoTurn:
    """A tool call, a failure or an answer, as the prompt says."""
    prompt = str(body["messages"][0]["content"])
    if "fail" in prompt:
        raise BrokenConnection("The model is gone.")
    if "tool" in prompt and len(body["messages"]) == 1:
        return DemoTurn(tool="read_files", arguments='{"paths": ["a"]}')
    return DemoTurn("Done.")


def test_a_run_through_the_gateway_is_drawn_as_it_was(
    session: OrmSession, alice: Person, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert alice.user
    factories.grant(alice.user, 5000)
    monkeypatch.setattr("models.gateway.demo_model.next_turn", answered)

    def post(path: str, body: Any, expected: int = 200) -> Any:
        answer = alice.browser.post(path, data=json.dumps(body), headers=alice.headers)
        assert (answer.status_code == 200) == (expected == 200), answer.text
        return answer.json

    def call(run_id: str, prompt: str, *more: Any, expected: int = 200) -> Any:
        tools = [{"type": "function", "function": {"name": "read_files", "parameters": {"type": "object"}}}]
        asked = [{"role": "user", "content": prompt}, *more]
        body = {
            "model": "stoa/demo",
            "messages": asked,
            "tools": tools,
            "codebuff_metadata": {"run_id": run_id, "client_id": "c"},
        }
        return post(CHAT, body, expected)

    def begin(agent: str, *above: str) -> str:
        return str(post(RUNS, {"action": "START", "agentId": agent, "ancestorRunIds": above})["runId"])

    top = begin("acme/boss@1.0.0")
    tool = call(top, "Use the tool.")["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": tool["tool_calls"][0]["id"], "content": "a"}
    call(top, "Use the tool.", tool, result)
    below = begin("acme/helper@0.1.0", top)
    call(below, "Help.")
    deeper = begin("acme/mason@0.1.0", top, below)
    call(deeper, "Now fail.", expected=502)
    for each in (deeper, below, top):
        post(
            RUNS,
            {
                "action": "FINISH",
                "status": "completed",
                "runId": each,
                "totalSteps": 0,
                "directCredits": 1,
                "totalCredits": 1,
            },
        )

    found = run_sequence(changed_by(session, alice, shop, top))
    names = {each.id: each.label for each in found.participants}
    said = [(names[start], names[end]) for start, end, _ in found.messages]
    assert said == [
        ("boss", "stoa/demo"),
        ("boss", "read_files"),
        ("boss", "stoa/demo"),
        ("boss", "helper"),
        ("helper", "stoa/demo"),
        ("helper", "mason"),
        ("mason", "stoa/demo"),
    ]
    assert [label.endswith("failed") for *_, label in found.messages] == [False] * 6 + [True]
    assert found.notes == []
    page = alice.browser.get(f"/projects/{shop.project}/knowledge?diagram=sequence").text
    assert f"/runs/{top}" in page
    agree(page, diagram_of(session.get_one(Project, shop.project), "sequence"))


def agree(page: str, diagram: ProjectDiagram) -> None:
    """The picture, the table and the text have the same participants and calls in the same order."""
    labels = {each.id: each.label for each in diagram.nodes}
    calls = [(labels[each.start], labels[each.end], each.label) for each in diagram.edges]
    drawing = laid_out(diagram)
    assert [each.label for each in drawing.lines if each.label] == [label for *_, label in calls]
    assert len(drawing.boxes) == len(diagram.nodes)
    rows = re.findall(r'<th role="rowheader".*?</tr>', page, re.DOTALL)
    told = [
        tuple(" ".join(html.unescape(part).split()) for part in re.findall(r">([^<>]*\S[^<>]*)<", row))
        for row in rows
    ]
    assert told == calls
    text = mermaid_of(diagram).split("\n")
    assert text[0] == "sequenceDiagram"
    assert [line.partition(" as ")[0] for line in text[1 : len(labels) + 1]] == [
        f"  participant n{at}" for at in range(len(labels))
    ]
    assert len(text) == 1 + len(labels) + len(calls), "no name ends its line"
    assert [line.rpartition(": ")[2] for line in text[len(labels) + 1 :]] == [label for *_, label in calls]


def a_run(alice: Person, calls: int, names: list[str]) -> AgentRun:
    """A finished run whose calls go to models with these names in turn."""
    begun = now() - timedelta(hours=1)
    run = factories.run(alice.user, names[0], status="completed", created_at=begun, completed_at=now())
    for at in range(calls):
        started = begun + timedelta(seconds=at)
        factories.call(
            alice.user, run_id=run.id, model=names[at % len(names)], started_at=started, finished_at=started
        )
    return run


def test_hostile_names_stay_names(session: OrmSession, alice: Person, shop: Shop) -> None:
    run = a_run(alice, 4, [HOSTILE, "\u202e\u2066", "end", "  "])
    project = changed_by(session, alice, shop, run.id)
    diagram = diagram_of(project, "sequence")
    page = alice.browser.get(f"/projects/{shop.project}/knowledge?diagram=sequence").text
    assert "<script>alert" not in page
    assert "\u202e" not in page
    agree(page, diagram)
    for line in mermaid_of(diagram).split("\n")[1:]:
        assert not set(line.partition(" as ")[2] or line.partition(": ")[2]) & set('"|[]{}<>;#`%')


def test_a_long_run_is_drawn_to_a_bound(session: OrmSession, alice: Person, shop: Shop) -> None:
    with factories.one_commit():
        run = a_run(alice, 1_000, [f"model-{at}" for at in range(30)])
    project = changed_by(session, alice, shop, run.id)
    found = run_sequence(project)
    assert len(found.messages) == MAX_MESSAGES
    assert len(found.participants) == MAX_PARTICIPANTS + 1
    assert "1,000 times in all" in " ".join(found.notes)
    page = alice.browser.get(f"/projects/{shop.project}/knowledge?diagram=sequence")
    assert len(page.data) < 600_000
    agree(page.text, diagram_of(project, "sequence"))
