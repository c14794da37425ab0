"""Exports of OpenAI become assistants: what travels, what is named, and that a repetition makes nothing twice."""

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.assistants import Assistant, AssistantVersion, render_instructions
from models.assistants.assistant_import import MAX_ITEMS, ImportedAssistant, import_assistants
from models.core.errors import Forbidden, Invalid
from models.core.settings import Settings
from models.ledger import Account
from models.orgs import Org
from tests import factories
from tests.factories import Person

PATH = "/api/v1/assistants/import"
ASSISTANT: dict[str, Any] = {
    "id": "asst_abc",
    "object": "assistant",
    "created_at": 1_700_000_000,
    "name": "Math Tutor",
    "description": "Helps",
    "model": "gpt-4o",
    "instructions": "Help with {{maths}}.",
    "tools": [
        {"type": "code_interpreter"},
        {"type": "file_search", "file_search": {"max_num_results": 5}},
        {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": None}},
        {"type": "function", "function": {"name": "not a name"}},
    ],
    "tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}, "code_interpreter": {"file_ids": []}},
    "metadata": {"team": "school"},
    "temperature": 0.5,
    "top_p": 1,
    "response_format": "auto",
    "reasoning_effort": None,
}
PROMPT: dict[str, Any] = {
    "id": "pmpt_1",
    "version": "3",
    "name": "Welcome",
    "model": "gpt-5",
    "messages": [
        {"role": "developer", "content": [{"type": "input_text", "text": "Greet {{customer}}."}]},
        {"role": "user", "content": "In {{language}}, from {{shop}}"},
    ],
    "variables": {"customer": {"type": "string"}, "language": "German", "bad name": "x"},
    "reasoning": {"effort": "low"},
    "max_output_tokens": 500,
    "top_k": 7,
}


@pytest.fixture
def imported(session: OrmSession, alice: Person, settings: Settings) -> Any:
    """A function that imports for alice."""

    def act(raw: Any) -> list[ImportedAssistant]:
        return import_assistants(alice.id, Account(user_id=alice.id), raw, settings)

    return act


def version_of(session: OrmSession, result: ImportedAssistant) -> AssistantVersion:
    assert (result.outcome, result.notes) == ("imported", result.notes)
    return session.scalars(select(AssistantVersion).where(AssistantVersion.assistant_id == result.id)).one()


def test_an_assistant_travels_and_what_cannot_is_named(session: OrmSession, imported: Any) -> None:
    (result,) = imported({"object": "list", "data": [ASSISTANT]})
    found = version_of(session, result)
    assert (found.name, found.description, found.model, found.instructions) == (
        "Math Tutor",
        "Helps",
        "gpt-4o",
        "Help with {{maths}}.",
    )
    assert found.tools == [
        "file_search",
        {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}},
    ]
    assert found.model_params == {"temperature": 0.5, "top_p": 1}
    assert found.metadata_ == {"team": "school", "imported_from": "asst_abc"}
    assert found.variables == {}
    assert result.source == "asst_abc"
    notes = "\n".join(result.notes)
    for word in ("code_interpreter", "vs_1", "A function did not travel"):
        assert word in notes
    assert len(result.notes) == 3


def test_a_prompt_travels_with_its_variables(session: OrmSession, imported: Any) -> None:
    (result,) = imported(PROMPT)
    found = version_of(session, result)
    assert found.model_params == {"max_tokens": 500, "reasoning_effort": "low"}
    assert {name: (each["required"], each["default"]) for name, each in found.variables.items()} == {
        "customer": (True, None),
        "language": (False, "German"),
        "shop": (True, None),
    }
    text = render_instructions(found, {"customer": "Ann", "shop": "Acme"})
    assert text == "Greet Ann.\n\n<messages>\nuser: In German, from Acme\n</messages>"
    assert [word in "\n".join(result.notes) for word in ("bad name", "top_k", "roles user")] == [True] * 3


def test_a_repetition_makes_nothing_twice(session: OrmSession, imported: Any) -> None:
    first = imported([ASSISTANT, PROMPT, ASSISTANT])
    assert [each.outcome for each in first] == ["imported", "imported", "exists"]
    again = imported([ASSISTANT, PROMPT])
    assert [(each.outcome, each.id) for each in again] == [("exists", each.id) for each in first[:2]]
    assert session.query(Assistant).count() == 2


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"name": None, "instructions": None, "model": None, "tools": None, "metadata": None},
        {"name": "a\nb\0", "instructions": 7, "tools": "x", "metadata": {"k": 1}, "variables": ["a", "b"]},
        {
            "tools": [7, None, {"type": 3}, {}, "file_search", {"type": "web_search_preview"}],
            "temperature": "hot",
        },
        {"variables": [1], "messages": [7, {"role": "user"}, {"role": 7, "content": [{"text": 7}]}]},
        {
            "tool_resources": {"x": 7, "y": {"ids": [[]]}},
            "response_format": {"type": "json_object"},
            "reasoning": 7,
        },
        {"name": "n" * 5_000, "id": "i" * 5_000, "metadata": {str(number): "x" for number in range(16)}},
    ],
    ids=lambda each: str(each)[:40],
)
def test_odd_objects_become_assistants_with_notes(session: OrmSession, imported: Any, raw: Any) -> None:
    (result,) = imported(raw)
    assert version_of(session, result).instructions
    assert result.notes


def test_refused_objects_do_not_stop_the_others(
    session: OrmSession, alice: Person, imported: Any, settings: Settings
) -> None:
    long = {"id": "long", "name": "x", "instructions": "x" * 70_000}
    results = imported([long, 7, ASSISTANT, {"name": "y", "instructions": "nul \0"}])
    assert [each.outcome for each in results] == ["refused", "refused", "imported", "refused"]
    assert "64 KiB" in results[0].notes[-1]
    few = settings.model_copy(update={"stoa_assistants_per_account": 2})
    many = [{"name": str(number), "instructions": "x"} for number in range(3)]
    outcomes = [each.outcome for each in import_assistants(alice.id, Account(user_id=alice.id), many, few)]
    assert outcomes == ["imported", "refused", "refused"]
    session.commit()
    assert session.query(Assistant).count() == 2


@pytest.mark.parametrize(
    "raw", [[], 7, "text", None, [7], {"data": []}, [{}] * (MAX_ITEMS + 1)], ids=lambda each: str(each)[:20]
)
def test_nothing_or_too_much_is_422(session: OrmSession, imported: Any, raw: Any) -> None:
    with pytest.raises(Invalid):
        imported(raw)


def test_the_route_and_who_may_use_it(
    session: OrmSession, client: FlaskClient, acme: Org, alice: Person, bob: Person, mallory: Person
) -> None:
    answer = client.post(PATH, json=[ASSISTANT, 7], headers=alice.headers)
    assert answer.status_code == 200
    first, second = answer.json["data"]
    assert (first["outcome"], second["outcome"]) == ("imported", "refused")
    assert client.get(f"/api/v1/assistants/{first['id']}", headers=alice.headers).json["name"] == "Math Tutor"
    inside = f"{PATH}?org_id={acme.id}"
    assert client.post(inside, json=ASSISTANT, headers=bob.headers).json["data"][0]["outcome"] == "imported"
    assert client.post(inside, json=ASSISTANT, headers=mallory.headers).status_code == 404
    assert client.post(PATH, json=ASSISTANT).status_code == 401
    assert client.post(PATH, json=[], headers=alice.headers).status_code == 422
    assert client.post(PATH, data=b"{", headers=alice.headers).status_code == 400
    assert alice.user
    key = factories.api_key(alice.user, permissions=["agents:read"])
    assert client.post(PATH, json=[], headers={"authorization": f"Bearer {key}"}).status_code == 403


def test_viewers_import_nothing(session: OrmSession, acme: Org, mallory: Person, settings: Settings) -> None:
    factories.join(acme, mallory.id, "viewer")
    with pytest.raises(Forbidden):
        import_assistants(mallory.id, Account(org_id=acme.id), ASSISTANT, settings)


def test_the_command_imports_a_file_and_says_what_did_not_travel(
    app: Flask, session: OrmSession, acme: Org, alice: Person, tmp_path: Path
) -> None:
    runner = app.test_cli_runner()
    file = tmp_path / "assistants.jsonl"
    file.write_text(f"{json.dumps(ASSISTANT)}\n\n{json.dumps(PROMPT)}\n")
    arguments = ["assistants", "import", str(file), "--user", "alice@example.org"]
    result = runner.invoke(args=arguments)
    assert result.exit_code == 0, result.output
    assert "imported  asst_abc -> agnt_" in result.output
    assert "code_interpreter" in result.output
    assert "exists" in runner.invoke(args=arguments).output
    assert runner.invoke(args=[*arguments, "--org", acme.slug]).exit_code == 0
    owners = session.scalars(select(Assistant.account_id)).all()
    assert sorted(owners) == sorted([alice.id] * 2 + [acme.id] * 2)
    file.write_text("[7, {}]")
    refused = runner.invoke(args=arguments)
    assert (refused.exit_code, "refused" in refused.output) == (1, True)
    for text, user, org in (("{", "alice", []), ("{}", "nobody", []), ("{}", "alice", ["--org", "none"])):
        file.write_text(text)
        failed = runner.invoke(args=[*arguments[:4], f"{user}@example.org", *org])
        assert (failed.exit_code, "Error:" in failed.output) == (1, True)
