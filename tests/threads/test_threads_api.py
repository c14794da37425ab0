"""`/api/v1/threads`: who sees and changes what, and what is refused (crafely contract 5.3; checks 9, 10, 12)."""

import json
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select

from models.accounts import User
from models.assistants import create_assistant, delete_assistant
from models.core.db import db, now
from models.core.jobs import purge_threads
from models.core.settings import load_settings
from models.index import add_document, documents_of
from models.ledger import Account
from models.orgs import Org
from models.threads import Thread, ThreadMessage
from models.turns import Turn
from tests import factories
from tests.factories import Person
from tests.threads.thread_calls import Caller

RANDOM = "thrd_00000000-0000-0000-0000-000000000000"


def assistant(account: Account, by: str, *, deleted: bool = False) -> str:
    """The id of an assistant."""
    fields = {"name": "Helper", "instructions": "Help."}
    id = create_assistant(by, account, fields, load_settings(_env_file=None)).assistant.id
    if deleted:
        delete_assistant(by, account, id)
    db.session.commit()
    return id


def test_a_thread_lives_from_creation_to_restoration(call: Caller, alice: Person) -> None:
    made = call.made(
        name=" Trip ", instructions="Be brief.", model="stoa/demo", metadata={"a": "b"}, budget=50
    )
    assert made["id"].startswith("thrd_")
    assert (made["name"], made["instructions"], made["metadata"], made["budget"]) == (
        *("Trip", "Be brief.", {"a": "b"}),
        50,
    )
    path = f"/threads/{made['id']}"
    assert call("get", path) == (200, made)
    status, changed = call("patch", path, {"name": "Trips", "instructions": None})
    assert (status, changed["name"], changed["instructions"], changed["model"]) == (
        *(200, "Trips", None),
        "stoa/demo",
    )
    assert changed["updated_at"] > made["updated_at"]
    call.said(made["id"], "hello")
    assert call("post", f"{path}/restore")[0] == 409
    status, deleted = call("delete", path)
    assert (status, deleted["deleted_at"] is None) == (200, False)
    for method, suffix, body in (
        ("get", "", None),
        ("patch", "", {"name": "x"}),
        ("delete", "", None),
        ("get", "/messages", None),
        ("post", "/messages", {"role": "user", "content": "x"}),
        ("get", "/export", None),
        ("post", "/shares", {"lifetime": "day"}),
    ):
        assert call(method, path + suffix, body)[0] == 404
    assert call("get", "/threads")[1]["data"] == []
    assert [row["id"] for row in call("get", "/threads", deleted="true")[1]["data"]] == [made["id"]]
    assert call("post", f"{path}/restore")[1]["deleted_at"] is None
    assert [row["content"][0]["text"] for row in call("get", f"{path}/messages")[1]["data"]] == ["hello"]


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"name": ""}, {"name": "  "}, {"name": "x" * 256}, {"name": 1}, {"name": None}, [], "x"),
        *(
            {"name": "x", **more}
            for more in (
                {"id": "thrd_1"},
                {"user_id": "x"},
                {"deleted_at": None},
                {"spent": 0},
                {"instructions": "é" * (32 << 10) + "x"},
                {"instructions": 1},
                {"model": "m" * 201},
                {"storage_id": ""},
                {"storage_id": "s" * 201},
                {"storage_id": None},
                {"budget": -1},
                {"budget": 2**53},
                {"budget": 1.5},
                {"budget": True},
                {"metadata": {str(each): "x" for each in range(17)}},
                {"metadata": {"k" * 65: "x"}},
                {"metadata": {"": "x"}},
                {"metadata": {"k": "v" * 513}},
                {"metadata": {"k": 1}},
                {"metadata": None},
            )
        ),
    ],
)
def test_a_wrong_body_is_422_and_nothing_is_stored(call: Caller, body: Any) -> None:
    status, answer = call("post", "/threads", body)
    assert status == 422
    assert answer["error"]["message"]
    assert db.session.scalar(select(func.count()).select_from(Thread)) == 0


def test_text_that_cannot_be_stored_is_refused(client: FlaskClient, call: Caller) -> None:
    for raw in (b'{"name": "\\u0000"}', b"{", b"", b'{"name": ' + b"[" * 5_000):
        answer = client.post("/api/v1/threads", data=raw, headers=call.headers)
        assert answer.status_code in (400, 422)
    assert (
        client.post("/api/v1/threads", data=b'{"name": "\\ud800"}', headers=call.headers).status_code == 201
    )


def test_a_thread_of_others_is_like_one_that_does_not_exist(
    client: FlaskClient, call: Caller, stranger: Caller, acme: Org, bob: Person, alice: Person
) -> None:
    mine = call.made(name="Mine")["id"]
    message = call.said(mine, "secret")["id"]
    share = call.made(f"/threads/{mine}/shares", lifetime="day")["id"]
    assert alice.user
    assert bob.user
    org_key = factories.token(alice.user, org_id=acme.id)
    others = [
        stranger,
        Caller(client, bob.token),
        Caller(client, org_key),  # another account of the same person
        Caller(client, factories.token(bob.user, org_id=acme.id)),
    ]
    routes: list[tuple[str, str, Any]] = [
        ("get", "", None),
        ("patch", "", {"name": "x"}),
        ("delete", "", None),
        ("post", "/restore", None),
        ("get", "/export", None),
        ("get", "/export?format=md", None),
        ("get", "/messages", None),
        ("get", f"/messages/{message}", None),
        ("post", "/messages", {"role": "user", "content": "x"}),
        ("post", "/shares", {"lifetime": "day"}),
        ("get", "/shares", None),
        ("delete", f"/shares/{share}", None),
    ]
    for other in others:
        for method, suffix, body in routes:
            status, answer = other(method, f"/threads/{mine}{suffix}", body)
            _, random = other(method, f"/threads/{RANDOM}{suffix}", body)
            assert (status, answer["error"]) == (404, random["error"]), (method, suffix)
        assert other("get", "/threads")[1]["data"] == []
        assert other("get", "/thread-shares")[1]["data"] == []
    for method, suffix, body in routes:
        assert Caller(client, "")(method, f"/threads/{mine}{suffix}", body)[0] == 401
    assert call("get", f"/threads/{mine}")[1]["messages"] == 1


def test_an_organisations_thread_is_its_members_own(
    client: FlaskClient, acme: Org, alice: Person, bob: Person
) -> None:
    assert alice.user
    assert bob.user
    owner = Caller(client, factories.token(alice.user, org_id=acme.id))
    member = Caller(client, factories.token(bob.user, org_id=acme.id))
    made = member.made(name="Bob's")
    assert member("get", f"/threads/{made['id']}")[0] == 200
    assert owner("get", f"/threads/{made['id']}")[0] == 404
    assert db.session.get_one(Thread, made["id"]).account_id == acme.id


@pytest.mark.parametrize(
    ("permissions", "reads", "writes"),
    [([], 403, 403), (["threads:read"], 200, 403), (["threads:write"], 403, 201), (["chat"], 403, 403)],
)
def test_scopes(client: FlaskClient, alice: Person, permissions: list[str], reads: int, writes: int) -> None:
    assert alice.user
    caller = Caller(client, factories.api_key(alice.user, permissions=permissions))
    assert caller("get", "/threads")[0] == reads
    assert caller("post", "/threads", {"name": "x"})[0] == writes


def test_a_storage_id_is_unique_in_the_account(call: Caller, stranger: Caller) -> None:
    first = call.made(name="x", storage_id="chat-1")
    status, answer = call("post", "/threads", {"name": "y", "storage_id": "chat-1"})
    assert (status, answer["error"]["code"]) == (409, "storage_id_taken")
    stranger.made(name="z", storage_id="chat-1")
    call("delete", f"/threads/{first['id']}")
    assert call("post", "/threads", {"name": "y", "storage_id": "chat-1"})[0] == 409
    call("post", f"/threads/{first['id']}/restore")
    found = call("get", "/threads", storage_id="chat-1")[1]["data"]
    assert [row["id"] for row in found] == [first["id"]]


def test_threads_of_an_assistant(call: Caller, stranger: Caller, alice: Person, mallory: Person) -> None:
    mine, theirs = assistant(alice.account, alice.id), assistant(mallory.account, mallory.id)
    gone = assistant(alice.account, alice.id, deleted=True)
    one = call.made(name="one", agent_id=mine)
    two = call.made(f"/assistants/{mine}/threads", name="two")
    assert (one["agent_id"], two["agent_id"]) == (mine, mine)
    call.made(name="without an assistant")
    for path, query in ((f"/assistants/{mine}/threads", {}), ("/threads", {"agent_id": mine})):
        assert [row["name"] for row in call("get", path, **query)[1]["data"]] == ["two", "one"]
    for id in (theirs, gone, "agnt_none"):
        assert call("post", "/threads", {"name": "x", "agent_id": id})[0] == 404
        assert call("patch", f"/threads/{one['id']}", {"agent_id": id})[0] == 404
        assert call("post", f"/assistants/{id}/threads", {"name": "x"})[0] == 404
    for id in (theirs, "agnt_none", "a\0"):
        assert call("get", f"/assistants/{id}/threads")[0] == 404
    assert stranger("get", f"/assistants/{mine}/threads")[0] == 404
    delete_assistant(alice.id, alice.account, mine)
    db.session.commit()
    assert len(call("get", f"/assistants/{mine}/threads")[1]["data"]) == 2, "they stay readable"
    assert call("patch", f"/threads/{one['id']}", {"agent_id": None})[1]["agent_id"] is None


def test_the_list_is_by_activity_and_its_pages_follow_each_other(call: Caller) -> None:
    ids = [call.made(name=str(number))["id"] for number in range(5)]
    call.said(ids[0], "news")
    found, cursor = [], None
    while cursor != "":
        page = call("get", "/threads", limit=2, **({"cursor": cursor} if cursor else {}))[1]
        found += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"] or ""
    assert found == [ids[0], *ids[:0:-1]]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "x"},
        {"limit": "٣"},
        {"cursor": "x"},
        {"cursor": "2026-01-01~x"},
        {"deleted": "yes"},
        {"q": "x" * 201},
    ],
)
def test_wrong_parameters_are_422(call: Caller, query: dict[str, str]) -> None:
    assert call("get", "/threads", **query)[0] == 422


def test_messages_by_branch_and_page(call: Caller) -> None:
    id = call.made(name="x")["id"]
    path = f"/threads/{id}/messages"
    one = call.said(id, "1")
    two = call.said(id, "2", role="assistant")
    three = call.said(id, "3")
    other = call.said(id, "3, edited", parent_id=two["id"])

    def shown(**query: Any) -> list[str]:
        return [row["content"][0]["text"] for row in call("get", path, **query)[1]["data"]]

    assert shown() == ["3, edited", "2", "1"]
    assert shown(branch=three["id"]) == ["3", "2", "1"]
    assert shown(before=two["id"]) == ["1"]
    assert shown(after=one["id"]) == ["2", "3, edited"]
    page = call("get", path, limit=2)[1]
    assert page["next_cursor"] == two["id"]
    assert page["data"][0]["siblings"] == {
        "place": 2,
        "count": 2,
        "previous_id": three["id"],
        "next_id": None,
    }
    assert call("patch", f"/threads/{id}", {"head_id": three["id"]})[1]["head_id"] == three["id"]
    assert shown() == ["3", "2", "1"]
    assert call("get", f"{path}/{other['id']}")[1] == other
    for query in ({"before": "x"}, {"after": "x"}, {"branch": "x"}, {"before": "\0"}):
        assert call("get", path, **query)[0] == 404
    assert call("get", path, before=one["id"], after=one["id"])[0] == 422
    assert call("patch", f"/threads/{id}", {"head_id": "msg_none"})[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"role": "user"},
        {"role": "robot", "content": "x"},
        {"role": "user", "content": 1},
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "video"}]},
        {"role": "user", "content": ["x"]},
        {"role": "user", "content": "x" * (1 << 20)},
        {"role": "tool", "content": "x"},
        {"role": "user", "content": "x", "seq": 7},
        {"role": "user", "content": "x", "id": "msg_1"},
        {"role": "user", "content": "x", "credits": 0},
        {"role": "user", "content": "x", "metadata": {"a": 1}},
        {"role": "assistant", "content": "x", "tool_calls": "x"},
    ],
)
def test_a_wrong_message_is_422_and_nothing_is_stored(call: Caller, thread: Thread, body: Any) -> None:
    assert call("post", f"/threads/{thread.id}/messages", body)[0] == 422
    assert db.session.scalar(select(func.count()).select_from(ThreadMessage)) == 0


def test_tools_messages_are_kept(call: Caller, thread: Thread) -> None:
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    asked = call.said(thread.id, "", role="assistant", tool_calls=calls)
    answered = call.said(thread.id, "42", role="tool", tool_call_id="call_1", name="f")
    assert (asked["tool_calls"], asked["content"]) == (calls, [])
    assert (answered["tool_call_id"], answered["parent_id"]) == ("call_1", asked["id"])


def test_nothing_is_added_where_a_turn_is_active(call: Caller, thread: Thread, alice: Person) -> None:
    first = call.said(thread.id, "question")
    factories.save(
        Turn(
            kind="thread",
            subject_id=thread.id,
            branch_id=first["branch_id"],
            account_id=alice.id,
            user_id=alice.id,
            key_id="k",
            state="running",
            lease_owner="w",
        )
    )
    status, answer = call("post", f"/threads/{thread.id}/messages", {"role": "user", "content": "more"})
    assert (status, answer["error"]["code"]) == (409, "turn_in_progress")
    call.said(thread.id, "another question", parent_id=None)


def test_export_as_json_holds_every_branch(client: FlaskClient, call: Caller) -> None:
    id = call.made(name="x")["id"]
    call.said(id, "1")
    call.said(id, "other", parent_id=None)
    answer = client.get(f"/api/v1/threads/{id}/export", headers=call.headers)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{id}.json"'
    file = json.loads(answer.data)
    assert [row["content"][0]["text"] for row in file["messages"]] == ["1", "other"]
    assert file["thread"] == call("get", f"/threads/{id}")[1]
    assert file["messages"][0] == call("get", f"/threads/{id}/messages/{file['messages'][0]['id']}")[1]


def test_export_as_markdown_is_the_shown_branch(client: FlaskClient, call: Caller) -> None:
    id = call.made(name="Trip\nto", instructions="Be brief.")["id"]
    hidden = call.said(id, "hidden")
    call.said(id, "shown", parent_id=None)
    call.said(
        id,
        [  # type: ignore[arg-type]
            {"type": "text", "text": "Look:"},
            {"type": "file", "document_id": "file-1", "name": "a.pdf"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ],
        role="assistant",
        tool_calls=[{"function": {"name": "f", "arguments": "```"}}],
    )
    text = client.get(f"/api/v1/threads/{id}/export?format=md", headers=call.headers).text
    assert text.startswith("# Trip to\n\n> Be brief.\n\n## You\n\n")
    assert "\nshown\n" in text
    assert "Look:\n\n[File: a.pdf]\n\n[Picture]\n\n````\nf(```)\n````\n" in text
    assert "hidden" not in text
    other = client.get(f"/api/v1/threads/{id}/export?format=md&branch={hidden['id']}", headers=call.headers)
    assert "hidden" in other.text
    assert call("get", f"/threads/{id}/export", format="pdf")[0] == 422
    empty = call.made(name="empty")["id"]
    assert client.get(f"/api/v1/threads/{empty}/export?format=md", headers=call.headers).text == "# empty\n"
    file = client.get(f"/api/v1/threads/{empty}/export", headers=call.headers)
    assert json.loads(file.data)["messages"] == []


def test_deleted_threads_are_purged_after_their_time(call: Caller, alice: Person) -> None:
    ids = [call.made(name=str(number))["id"] for number in range(23)]
    kept, recent = ids[0], ids[1]
    for id in ids:
        call.said(id, "x")
        if id != kept:
            call("delete", f"/threads/{id}")
    old = select(Thread).where(Thread.id.not_in([kept, recent]))
    for thread in db.session.scalars(old):
        thread.deleted_at = now() - timedelta(days=31)
    db.session.add(
        Turn(
            kind="thread",
            subject_id=ids[2],
            branch_id="b",
            account_id=alice.id,
            user_id=alice.id,
            key_id="k",
            state="completed",
        )
    )
    scopes = [add_document(alice.id, alice.id, "thread", id, "a.txt", b"text").scope for id in (kept, ids[2])]
    db.session.commit()
    purge_threads(0)
    assert [len(documents_of("thread", scope.id)) for scope in scopes] == [1, 0]
    assert set(db.session.scalars(select(Thread.id))) == {kept, recent}
    assert db.session.scalar(select(func.count()).select_from(ThreadMessage)) == 2
    assert db.session.scalar(select(func.count()).select_from(Turn)) == 0
    assert call("post", f"/threads/{ids[2]}/restore")[0] == 404
    assert call("post", f"/threads/{recent}/restore")[0] == 200


def test_the_threads_of_an_erased_account_are_gone(call: Caller, stranger: Caller, alice: Person) -> None:
    from models.accounts.account_deletion import erase_user

    id = call.made(name="x")["id"]
    call.said(id, "secret")
    other = stranger.made(name="y")["id"]
    user = db.session.get_one(User, alice.id)
    user.deleted_at = now() - timedelta(days=15)
    db.session.commit()
    erase_user(alice.id, now())
    db.session.commit()
    assert list(db.session.scalars(select(Thread.id))) == [other]
    assert db.session.scalar(select(func.count()).select_from(ThreadMessage)) == 0


def test_a_persons_export_holds_their_threads(call: Caller, stranger: Caller, alice: Person) -> None:
    from models.core.personal_export import export_files

    id = call.made(name="x", metadata={"a": "b"})["id"]
    call.said(id, "hello")
    link = call.made(f"/threads/{id}/shares", lifetime="week")
    stranger.made(name="not mine")
    files = {file.name: "".join(file.chunks(alice.id)) for file in export_files()}
    (row,) = map(json.loads, files["threads.jsonl"].splitlines())
    assert (row["id"], row["name"], row["metadata"]) == (id, "x", {"a": "b"})
    (said,) = map(json.loads, files["thread_messages.jsonl"].splitlines())
    assert (said["thread"], said["content"][0]["text"]) == (id, "hello")
    assert link["id"] in files["thread_shares.csv"]
    assert link["url"].rsplit("/", 1)[1] not in "".join(files.values())


def test_a_day_has_limits(
    app: Flask, call: Caller, stranger: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"stoa_threads_per_day": 2, "stoa_thread_bytes_per_day": 1_000}
    monkeypatch.setitem(app.extensions, "settings", app.extensions["settings"].model_copy(update=limits))
    id = call.made(name="1")["id"]
    call.made(name="2")
    status, answer = call("post", "/threads", {"name": "3"})
    assert (status, "STOA_THREADS_PER_DAY" in answer["error"]["message"]) == (429, True)
    stranger.made(name="1")
    call.said(id, "x" * 500)
    path = f"/threads/{id}/messages"
    assert call("post", path, {"role": "user", "content": "x" * 500})[0] == 429
    assert call("post", path, {"role": "user", "content": "x" * 1_000})[0] == 413
    for door, body in (
        ("/v1/conversations", {"items": [{"type": "message", "role": "user", "content": "x" * 500}]}),
        ("/v1/threads", {"messages": [{"role": "user", "content": "x" * 500}]}),
    ):
        monkeypatch.setitem(
            app.extensions,
            "settings",
            app.extensions["settings"].model_copy(update={"stoa_threads_per_day": 9}),
        )
        assert call.client.post(door, json=body, headers=call.headers).status_code == 429
    call.said(id, "x")
