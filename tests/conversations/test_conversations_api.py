"""The JSON routes of conversations, as each of the cast."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.threads import Thread
from models.turns import TurnEngine
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi

EDIT = "In README.md replace 'Twelve' with 'Twenty'"


class Api(ProjectsApi):
    """Alice's key, and her conversation."""

    def __init__(self, client: FlaskClient, person: Person, engine: TurnEngine) -> None:
        super().__init__(client, person)
        self.engine = engine
        self.project_id = self.project("Pier")
        self.workspace_id = self.workspace(self.project_id)
        self.push(
            self.project_id, self.tree({"README.md": "Twelve columns.\n"}), workspace_id=self.workspace_id
        )
        status, body = self("post", "/conversations", {"workspace_id": self.workspace_id})
        assert status == 200, body
        self.id = str(body["conversation"]["id"])

    def said(self, prompt: str, **more: Any) -> str:
        status, body = self("post", f"/conversations/{self.id}/messages", {"prompt": prompt, **more})
        assert status == 200, body
        assert self.engine.idle(60)
        return str(body["messageId"])

    def get(self, path: str) -> Any:
        status, body = self("get", f"/conversations/{self.id}{path}")
        assert status == 200, body
        return body


@pytest.fixture
def api(session: OrmSession, client: FlaskClient, rich: Person, engine_of_turns: TurnEngine) -> Api:
    return Api(client, rich, engine_of_turns)


def test_a_conversation_is_begun_listed_and_named_by_its_first_prompt(api: Api) -> None:
    uuid.UUID(api.id)
    [listed] = api("get", "/conversations")[1]["conversations"]
    assert (listed["id"], listed["title"], listed["workspace_name"]) == (api.id, None, "main")
    assert (listed["project_id"], listed["project_name"]) == (api.project_id, "Pier")
    api.said("x" * 120)
    one = api("get", f"/conversations/{api.id}")[1]["conversation"]
    assert one["title"] == "x" * 100 + "..."
    assert api("get", f"/projects/{api.project_id}/conversations/{api.id}")[1]["conversation"] == one
    other = api.project("Other")
    assert api("get", f"/conversations?project_id={other}")[1] == {"conversations": []}


def test_a_prompt_and_its_answer_are_two_messages(api: Api) -> None:
    id = api.said(EDIT)
    asked, answer = api.get("/messages")["messages"]
    assert (asked["role"], asked["content"], asked["status"]) == ("user", EDIT, "completed")
    assert (answer["id"], answer["role"], answer["status"]) == (id, "assistant", "completed")
    assert answer["filesChanged"] == [{"path": "README.md", "change": "modified"}]
    assert answer["completedAt"] >= answer["createdAt"]
    [part] = [
        each for each in api.get("/opencode-messages")["messages"][id]["parts"] if each["type"] == "tool"
    ]
    assert (part["tool"], part["state"]["status"]) == ("edit_file", "completed")
    [item] = api.get("/timeline")["timeline"]
    assert (item["messageId"], item["summary"]) == (id, "1 file changed: README.md modified.")
    api.said("What is a pier?")
    four = api.get("/messages")["messages"]
    assert [each["role"] for each in four] == ["user", "assistant"] * 2
    assert api.get("/messages?limit=1")["messages"] == four[-1:]
    for place in range(1, 4):
        assert (
            api.get(f"/messages?limit=2&before={four[place]['id']}")["messages"]
            == four[max(0, place - 2) : place]
        )


def test_a_prompt_that_is_sent_twice_with_a_key_begins_one_turn(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    answers = [
        api("post", f"/conversations/{api.id}/messages", {"prompt": "What is a pier?"}, key)[1]
        for _ in range(2)
    ]
    assert api.engine.idle(60)
    assert answers[0]["messageId"] == answers[1]["messageId"]
    assert len(api.get("/messages")["messages"]) == 2


def test_clearing_empties_the_messages_and_keeps_the_timeline(api: Api) -> None:
    api.said(EDIT)
    for _ in range(2):
        assert api("post", f"/conversations/{api.id}/clear")[1] == {"success": True}
    assert api.get("/messages") == {"messages": []}
    assert api.get("/opencode-messages") == {"messages": {}}
    assert len(api.get("/timeline")["timeline"]) == 1
    api.said("In README.md replace 'Twenty' with 'Thirty'")
    assert len(api.get("/messages")["messages"]) == 2


def test_a_conversation_moves_within_its_project(api: Api) -> None:
    side = api.workspace(api.project_id, "side")
    path = f"/conversations/{api.id}"
    assert api("patch", path, {"title": "New", "workspace_id": side}) == (200, {"success": True})
    one = api("get", path)[1]["conversation"]
    assert (one["title"], one["workspace_id"]) == ("New", side)
    elsewhere = api.workspace(api.project("Other"))
    status, body = api("patch", path, {"workspace_id": elsewhere})
    assert (status, body["error"]["code"]) == (400, "INVALID_INPUT")
    assert api("patch", path, {"workspace_id": "nope"})[0] == 404


def test_saving_a_snapshot_and_branching_from_an_item(api: Api) -> None:
    saved = api("post", f"/conversations/{api.id}/snapshot")[1]
    assert (saved["was_dirty"], saved["file_changes"]) == (False, None)
    files = api.tree({"README.md": "Twelve columns.\n", "new.txt": "new\n"})
    assert api(
        "put",
        f"/workspaces/{api.workspace_id}/current-manifest",
        {"manifest_hash": files, "previous_manifest_hash": saved["manifest_hash"]},
    )[0] in (200, 404, 405)
    api.said(EDIT)
    [item] = api.get("/timeline")["timeline"]
    status, body = api("post", f"/conversations/{api.id}/branch", {"item_id": item["id"], "name": "beside"})
    assert status == 201, body
    assert body["snapshot_id"] == item["snapshotId"]
    assert body["conversation"]["id"] != api.id
    status, body = api("post", f"/conversations/{api.id}/branch", {"name": "there", "move": True})
    assert (status, body["conversation"]["id"]) == (201, api.id)
    assert api("post", f"/conversations/{api.id}/branch", {"name": "there"})[0] == 409


def test_the_events_are_streamed_and_continued(api: Api) -> None:
    turn = api("post", f"/conversations/{api.id}/messages", {"prompt": EDIT})[1]
    told = list(streamed(api, until="timeline_summary"))
    names = [name for _, name, _ in told]
    assert names[:2] == ["message_start", "message_status"]
    assert names[-6:] == [
        "message_status",
        "message_complete",
        "timeline_item",
        "files_changed",
        "message_update",
        "timeline_summary",
    ]
    assert all(data["type"] == name for _, name, data in told)
    assert told[0][2]["messageId"] == turn["messageId"]
    text = "".join(data["content"] for _, name, data in told if name == "content_delta")
    whole = next(data["message"] for _, name, data in told if name == "message_complete")
    assert text == whole["content"]
    place = names.index("timeline_item")
    rest = list(streamed(api, until="timeline_summary", after=told[place][0]))
    assert rest == told[place + 1 :]


def streamed(api: Api, *, until: str, after: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The events of the stream, up to the first one of this name."""
    headers = {**api.headers, **({"Last-Event-ID": after} if after else {})}
    answer = api.client.get(f"/v1/conversations/{api.id}/events", headers=headers, buffered=False)
    assert answer.status_code == 200
    try:
        pending = ""
        for piece in answer.response:
            pending += piece.decode() if isinstance(piece, bytes) else piece
            while "\n\n" in pending:
                block, _, pending = pending.partition("\n\n")
                fields = dict(line.partition(": ")[::2] for line in block.splitlines())
                if "data" in fields:
                    yield fields["id"], fields["event"], json.loads(fields["data"])
                    if fields["event"] == until:
                        return
    finally:
        answer.close()


WRONG: list[tuple[str, str, Any, int, str]] = [
    ("post", "/messages", {}, 400, "INVALID_INPUT"),
    ("post", "/messages", {"prompt": "  "}, 400, "INVALID_INPUT"),
    ("post", "/messages", {"prompt": 5}, 400, "INVALID_INPUT"),
    ("post", "/messages", {"prompt": "x", "budget": 0}, 400, "INVALID_INPUT"),
    ("post", "/messages", [], 400, "INVALID_INPUT"),
    ("get", "/messages?limit=x", None, 400, "INVALID_INPUT"),
    ("get", "/messages?before=nope", None, 404, "NOT_FOUND"),
    ("get", "/timeline?limit=0", None, 400, "INVALID_INPUT"),
    ("post", "/opencode-questions/nope/reply", {"answers": []}, 404, "NOT_FOUND"),
    ("post", "/opencode-questions/nope/reject", None, 404, "NOT_FOUND"),
    ("post", "/resume", {}, 409, "TURN_NOT_ACTIVE"),
    ("post", "/branch", {"item_id": "nope"}, 404, "NOT_FOUND"),
    ("patch", "", {"title": "x" * 300}, 400, "INVALID_INPUT"),
    ("patch", "", {"level": "moon"}, 400, "INVALID_INPUT"),
    ("patch", "", {"budget": -1}, 400, "INVALID_INPUT"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code"), WRONG)
def test_wrong_requests_are_told_what_is_wrong(
    api: Api, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = api(method, f"/conversations/{api.id}{path}", body)
    assert (answer[0], answer[1]["error"]["code"]) == (status, code)


BEGIN: list[tuple[Any, int, str]] = [
    ({"title": "x"}, 400, "INVALID_INPUT"),
    ({"workspace_id": 5}, 400, "INVALID_INPUT"),
    ({"workspace_id": "nope"}, 404, "NOT_FOUND"),
    ({"workspace_id": "", "title": "x"}, 400, "INVALID_INPUT"),
    ({"workspace_id": "W", "engine": "moon"}, 400, "INVALID_INPUT"),
    ({"workspace_id": "W", "engine": "store"}, 400, "INVALID_INPUT"),
    ({"workspace_id": "W", "budget": 0}, 400, "INVALID_INPUT"),
]


@pytest.mark.parametrize(("body", "status", "code"), BEGIN)
def test_a_conversation_that_cannot_begin(api: Api, body: dict[str, Any], status: int, code: str) -> None:
    sent = {name: api.workspace_id if value == "W" else value for name, value in body.items()}
    answer = api("post", "/conversations", sent)
    assert (answer[0], answer[1]["error"]["code"]) == (status, code), answer


ROUTES: list[tuple[str, str, Any]] = [
    ("get", "", None),
    ("patch", "", {"title": "Mine"}),
    ("get", "/messages", None),
    ("post", "/messages", {"prompt": "Delete the file README.md"}),
    ("get", "/opencode-messages", None),
    ("get", "/questions", None),
    ("post", "/opencode-questions/x/reply", {"answers": []}),
    ("post", "/opencode-questions/x/reject", None),
    ("post", "/clear", None),
    ("get", "/timeline", None),
    ("post", "/snapshot", {}),
    ("post", "/branch", {}),
    ("post", "/stop", None),
    ("post", "/resume", {}),
    ("get", "/events", None),
    ("get", "/stream", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_strangers_find_nothing_and_nobody_is_let_in_without_a_key(
    api: Api, mallory: Person, method: str, path: str, body: Any
) -> None:
    stranger = ProjectsApi(api.client, mallory)
    status, refused = stranger(method, f"/conversations/{api.id}{path}", body)
    missing = stranger(method, f"/conversations/{uuid.uuid4()}{path}", body)
    assert (status, refused["error"]["code"]) == (404, "NOT_FOUND")
    assert missing == (status, refused)
    answer = api.client.open(f"/v1/conversations/{api.id}{path}", method=method, json=body)
    assert answer.status_code == 401


def test_openais_conversations_answer_at_the_same_addresses(api: Api) -> None:
    status, body = api("post", "/conversations", {})
    assert (status, body["object"]) == (200, "conversation")
    assert api("get", f"/conversations/{body['id']}")[1]["id"] == body["id"]
    assert api("get", f"/conversations/{body['id']}/messages")[0] == 404


def test_the_address_of_the_websocket_asks_for_one(api: Api) -> None:
    answer = api.client.get(f"/v1/conversations/{api.id}/stream?token={api.headers['authorization'][7:]}")
    assert (answer.status_code, answer.json["error"]["code"]) == (426, "UPGRADE_REQUIRED")
    assert api.client.get(f"/v1/conversations/{api.id}/stream?token=no").status_code == 401


def test_questions_are_listed_and_answered_once(api: Api) -> None:
    api.said("In README.md replace 'Twelve' with 'Twenty'. Use ask_user to know 'Which roof?'")
    [question] = api.get("/questions")["questions"]
    assert (question["kind"], question["state"], question["answers"]) == ("ask", "open", None)
    path = f"/conversations/{api.id}/opencode-questions/{question['id']}"
    for wrong in ({}, {"answers": "x"}, {"answers": [["a"], ["b"]]}, {"answers": [[5]]}):
        assert api("post", f"{path}/reply", wrong)[0] == 400
    assert (
        api("patch", f"/conversations/{api.id}", {"workspace_id": api.workspace(api.project_id, "b")})[0]
        == 409
    )
    assert api("post", f"/conversations/{api.id}/clear")[0] == 409
    assert api("post", f"{path}/reply", {"answers": [["Red"]]}) == (200, {"success": True})
    assert api.engine.idle(60)
    assert api("post", f"{path}/reply", {"answers": [["Red"]]})[1]["error"]["code"] == "QUESTION_CLOSED"
    assert api.get("/questions")["questions"] == []
    assert [each["status"] for each in api.get("/messages")["messages"]] == ["completed", "completed"]
    assert len(api.get("/timeline")["timeline"]) == 1


def test_a_paused_conversation_is_resumed_and_stopped(api: Api) -> None:
    path = f"/conversations/{api.id}"
    thread = db.session.scalars(select(Thread)).one()
    thread.budget = 0
    db.session.commit()
    api.said(EDIT)
    answer = api.get("/messages")["messages"][-1]
    assert (answer["status"], answer["turnState"]) == ("running", "paused")
    assert "budget of this thread" in answer["error"]
    assert api("patch", path, {"budget": 5_000})[0] == 200
    status, body = api("post", f"{path}/resume", {})
    assert (status, body["turnId"]) == (200, answer["turnId"])
    assert api.engine.idle(60)
    assert api.get("/messages")["messages"][-1]["status"] == "completed"
    api.said("Use ask_user to know 'Which roof?'")
    status, body = api("post", f"{path}/stop")
    assert (status, body["success"]) == (200, True)
    assert api.engine.idle(60)
    assert api.get("/messages")["messages"][-1]["turnState"] == "cancelled"
    assert api("post", f"{path}/stop")[1] == {"success": True, "turnId": None}
