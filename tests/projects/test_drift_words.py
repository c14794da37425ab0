"""Words of a model for a drift: billed to whoever asks, marked, and never needed."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import User
from models.projects.workspaces.drift_comparison import DriftAnalysis
from models.projects.workspaces.drift_words import MAX_PATHS, in_words_of
from models.usage import Message
from tests import factories
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi
from tests.projects.test_drift_api import Pair
from views.gateway.api.internal_calls import CallFailed, InternalAnswer
from views.projects.api import drift_routes

RULES = DriftAnalysis("2 files.", "1 file.", "high", "Six differ.", False, "Sync.")
MAIN = {"a": "1", "b": "1", "c": "1"}


def analyse(pair: Pair, query: str = "") -> tuple[int, Any]:
    status, body = pair.api("post", f"/workspaces/{pair.own}/drift/analyze{query}")
    return status, body.get("analysis", body)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the model answers; then the bodies of its calls."""
    texts: list[Any] = []

    def answer(key: str, body: dict[str, Any], *, client_id: str) -> InternalAnswer:
        text = texts.pop(0)
        texts.append(body)
        if text is None:
            raise CallFailed("The provider is down.")
        return InternalAnswer("call1", text)

    monkeypatch.setattr(drift_routes, "complete_chat", answer)
    return texts


def test_a_call_of_a_model_is_paid_by_the_caller(
    session: OrmSession, mine: ProjectsApi, alice: Person
) -> None:
    pair = Pair(mine, MAIN, {"a": "2"})
    free = analyse(pair)[1]
    status, refused = analyse(pair, "?model=stoa/demo")
    assert (status, refused["error"]["code"]) == (402, "INSUFFICIENT_CREDITS")
    assert "credits" in refused["error"]["message"]
    assert analyse(pair)[0] == 200
    factories.grant(session.get_one(User, alice.id), 1000)
    status, analysis = analyse(pair, "?model=stoa/demo")
    assert status == 200
    # the demo does not write the format, so what the rules say stands
    assert (analysis["written_by"], "format" in analysis["model_error"]) == (None, True)
    assert {**analysis, **dict.fromkeys(("analyzed_at", "model_error", "request_id"))} == {
        **free,
        **dict.fromkeys(("analyzed_at",)),
    }
    session.rollback()
    (message,) = session.scalars(select(Message).where(Message.client_id == "stoa-drift"))
    assert (message.user_id, message.credits >= 0) == (alice.id, True)
    assert pair.reports()["latest"] is None


def test_the_words_are_marked_and_the_risk_is_that_of_the_rules(mine: ProjectsApi, said: list[Any]) -> None:
    pair = Pair(mine, {f"{number:02}": "1" for number in range(30)}, {"00": "2"})
    said.append(
        'Sure: {"recommendation": "Look\\n at 00.", "risk_level": "none", "can_auto_sync": true} Bye.'
    )
    status, analysis = analyse(pair, "?model=stoa/demo")
    assert (status, analysis["recommendation"], analysis["risk_level"]) == (200, "Look at 00.", "medium")
    assert (analysis["can_auto_sync"], analysis["written_by"]) == (False, "stoa/demo")
    assert (analysis["request_id"], analysis["model_error"]) == ("call1", None)
    assert analysis["source_changes_summary"] == analyse(pair)[1]["source_changes_summary"]
    sent = said[0]["messages"][1]["content"]
    assert '"source_only":29' in sent.replace(" ", "")
    assert f'"{MAX_PATHS:02}"' in sent
    assert '"25"' not in sent


def test_a_failing_model_leaves_the_words_of_the_rules(mine: ProjectsApi, said: list[Any]) -> None:
    pair = Pair(mine, MAIN, {"a": "2"})
    said.append(None)
    status, analysis = analyse(pair, "?model=stoa/demo")
    assert (status, analysis["written_by"], analysis["request_id"]) == (200, None, None)
    assert analysis["model_error"] == "The provider is down."
    assert analysis["recommendation"] == analyse(pair)[1]["recommendation"]


def test_no_model_is_asked_if_there_is_nothing_to_say(mine: ProjectsApi, said: list[Any]) -> None:
    pair = Pair(mine, {"a": "1"}, {"a": "1", "new": "1"})
    assert analyse(pair, "?model=stoa/demo")[1]["written_by"] is None
    empty = Pair(mine, {"a": "1"}, None)
    status, body = mine("post", f"/workspaces/{empty.own}/drift/analyze?model=stoa/demo")
    assert (status, body["analysis"]) == (200, None)
    assert said == []


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("?model=nobody/none", 404, "MODEL_NOT_FOUND"),
        ("?model=a%00b", 422, "VALIDATION_ERROR"),
        (f"?model={'x' * 201}", 422, "VALIDATION_ERROR"),
    ],
)
def test_unknown_models_are_refused(mine: ProjectsApi, query: str, status: int, code: str) -> None:
    pair = Pair(mine, MAIN, {"a": "2"})
    found = analyse(pair, query)
    assert (found[0], found[1]["error"]["code"]) == (status, code)
    assert analyse(pair, "?model=")[0] == 200


def test_strangers_and_keys_without_chat_ask_no_model(
    client: FlaskClient, session: OrmSession, mine: ProjectsApi, mallory: Person, alice: Person
) -> None:
    pair = Pair(mine, MAIN, {"a": "2"})
    path = f"/workspaces/{pair.own}/drift/analyze"
    assert ProjectsApi(client, mallory)("post", f"{path}?model=stoa/demo")[0] == 404
    assert client.post(f"/v1{path}?model=stoa/demo").status_code == 401
    key = factories.api_key(alice.user, permissions=["projects:write"])
    headers = {"Authorization": f"Bearer {key}"}
    assert client.post(f"/v1{path}", headers=headers).status_code == 200
    refused = client.post(f"/v1{path}?model=stoa/demo", headers=headers)
    assert (refused.status_code, "inference:chat" in refused.text) == (403, True)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "No.",
        "{",
        "{}",
        "[1]",
        '{"recommendation": 7}',
        '{"recommendation": "  "}',
        '{"a":' * 5_000,
        "\0{\ud800",
    ],
)
def test_answers_without_words_are_none(answer: str) -> None:
    assert in_words_of(answer, RULES) is None


def test_long_words_are_cut_and_made_one_line() -> None:
    found = in_words_of('{"risk_explanation": "' + "word \\u0000\\n" * 500 + '"}', RULES)
    assert found is not None
    assert found._replace(risk_explanation="") == RULES._replace(risk_explanation="")
    assert found.risk_explanation.startswith("word word")
    assert len(found.risk_explanation) <= 600
