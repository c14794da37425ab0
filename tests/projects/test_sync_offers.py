"""A model's text for a decision: an offer that is billed, marked, whole or none, and taken only as a text of one's own."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import User
from models.projects.sync.sync_offers import BEGIN, CLIENT_ID, END, MAX_VERSIONS
from models.usage import Message
from tests import factories
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi
from tests.projects.synced_project import SyncedProject
from views.gateway.api.internal_calls import CallFailed, InternalAnswer
from views.projects.api import sync_routes

pytestmark = pytest.mark.usefixtures("proved")
LONG = "x\n" * (MAX_VERSIONS // 4)


@pytest.fixture
def torn(mine: ProjectsApi) -> SyncedProject:
    """Decisions about texts of several kinds, and some that no text settles."""
    names = ["a", "crlf", "mixed", "long", "bytes", "gone"]
    made = SyncedProject(mine, {**dict.fromkeys(names, "1\n"), "crlf": "1\r\n", "kept": "1"})
    main = {"a": "main\n", "crlf": "main\r\n", "mixed": "main\n", "long": f"main\n{LONG}", "bytes": "\0main"}
    copy = {
        "a": "copy\n",
        "crlf": "copy\r\n",
        "mixed": "copy\r\n1\n",
        "long": f"copy\n{LONG}",
        "bytes": "\0copy",
    }
    made.push(made.main, {**main, "kept": "2"})
    made.push(made.copy, {**copy, "kept": "1", "gone": "2\n"})
    return made


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

    monkeypatch.setattr(sync_routes, "complete_chat", answer)
    return texts


def ask(
    shop: SyncedProject, preview: str, path: str = "a", api: ProjectsApi | None = None, **more: Any
) -> Any:
    address = f"/workspaces/{shop.copy}/sync/previews/{preview}/offers"
    return (api or shop.api)("post", address, {"path": path, "model": "stoa/demo", **more})


def test_an_offer_is_taken_as_a_text_of_ones_own(torn: SyncedProject, said: list[Any]) -> None:
    before = torn.prepare()
    said.append(f"Here it is:\n{BEGIN}\nmain and copy\n{END}\nGood luck.")
    status, body = ask(torn, before["id"])
    offer = {"path": "a", "text": "main and copy\n", "written_by": "stoa/demo", "request_id": "call1"}
    assert (status, body) == (200, {"offer": offer})
    shown = said[0]["messages"][1]["content"]
    assert all(text in shown for text in ("1\n", "main\n", "copy\n"))
    path = f"/workspaces/{torn.copy}/sync/previews/{before['id']}"
    assert torn.api("get", path)[1] == {"preview": before, "moved": []}
    answers = {each["path"]: "use_workspace" for each in before["decisions_needed"]} | {"a": "custom"}
    assert torn.execute(before["id"], decisions=answers, custom_values={"a": offer["text"]})[0] == 200
    assert torn.files()["a"] == "main and copy\n"


def test_an_offer_has_the_line_ends_of_the_workspace(torn: SyncedProject, said: list[Any]) -> None:
    said.append(f"{BEGIN}\nboth\n{END}")
    assert ask(torn, torn.prepare()["id"], "crlf")[1]["offer"]["text"] == "both\r\n"
    assert "\r" not in said[0]["messages"][1]["content"]


@pytest.mark.parametrize("path", ["mixed", "long", "bytes", "gone", "kept"])
def test_no_model_is_asked_about_what_it_cannot_see_whole(
    torn: SyncedProject, said: list[Any], path: str
) -> None:
    status, body = ask(torn, torn.prepare()["id"], path)
    assert (status, body["error"]["code"]) == (400, "OFFER_IMPOSSIBLE")
    assert said == []


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "main and copy\n",
        f"{BEGIN}\nmain and",
        f"{BEGIN}\nmain and {END}",
        f"{BEGIN}\n<<<<<<< main\nx\n=======\ny\n>>>>>>> copy\n{END}",
        f"main\n{END}",
        f"{BEGIN}\n\0\n{END}",
    ],
)
def test_an_answer_that_is_no_whole_file_is_no_offer(
    torn: SyncedProject, said: list[Any], answer: str
) -> None:
    said.append(answer)
    status, body = ask(torn, torn.prepare()["id"])
    assert (status, body["error"]["code"]) == (502, "OFFER_UNUSABLE")


def test_a_failing_model_leaves_the_decision_open(torn: SyncedProject, said: list[Any]) -> None:
    preview = torn.prepare()["id"]
    said.append(None)
    status, body = ask(torn, preview)
    assert (status, body["error"]["message"]) == (502, "The provider is down.")
    assert "a" in torn.execute(preview)[1]["error"]["details"]["missing"]


def test_the_call_of_the_model_is_paid_by_the_caller(
    session: OrmSession, torn: SyncedProject, alice: Person
) -> None:
    preview = torn.prepare()["id"]
    status, body = ask(torn, preview)
    assert (status, body["error"]["code"]) == (402, "INSUFFICIENT_CREDITS")
    factories.grant(session.get_one(User, alice.id), 100_000)
    session.commit()
    status, body = ask(torn, preview)  # the demo does not write the format
    assert (status, body["error"]["code"]) == (502, "OFFER_UNUSABLE")
    session.rollback()
    (message,) = session.scalars(select(Message).where(Message.client_id == CLIENT_ID))
    assert message.user_id == alice.id


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"model": "nobody/none"}, 404, "MODEL_NOT_FOUND"),
        ({"model": ""}, 422, "VALIDATION_ERROR"),
        ({"model": "x" * 201}, 422, "VALIDATION_ERROR"),
        ({"model": None}, 422, "VALIDATION_ERROR"),
        ({"path": 7}, 422, "VALIDATION_ERROR"),
        ({"path": "unknown"}, 404, "NOT_FOUND"),
    ],
)
def test_wrong_questions_are_refused(
    torn: SyncedProject, said: list[Any], more: dict[str, Any], status: int, code: str
) -> None:
    found = ask(torn, torn.prepare()["id"], **more)
    assert (found[0], found[1]["error"]["code"]) == (status, code)
    assert said == []


def test_strangers_get_no_offer(
    client: FlaskClient, torn: SyncedProject, said: list[Any], mallory: Person, anonymous: Person
) -> None:
    preview = torn.prepare()["id"]
    assert ask(torn, preview, api=ProjectsApi(client, anonymous))[0] == 401
    found = ask(torn, preview, api=ProjectsApi(client, mallory))
    assert (found[0], found[1]["error"]["code"]) == (404, "NOT_FOUND")
    assert ask(torn, "X" * 26)[1]["error"]["code"] == "PREVIEW_EXPIRED"
    assert said == []
