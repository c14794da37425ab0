"""Links to threads: what they show and hide, when they end, and copies of what they show."""

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession

from models import threads
from models.accounts.users import User
from models.core.audit_log import AuditLog
from models.core.db import db, now
from models.index import add_document, documents_of
from models.ledger import Account
from models.orgs import Org, delete_org
from models.orgs.offboarding import offboard
from models.threads import Thread, ThreadMessage, ThreadShare
from models.threads.thread_share import copy_shared, share_thread, shared_thread
from tests import factories
from tests.factories import Person
from tests.threads.thread_calls import Caller


@pytest.fixture
def visitor(client: FlaskClient) -> Caller:
    """Calls without a key."""
    return Caller(client, "")


def link(call: Caller, thread: str, **body: Any) -> tuple[dict[str, Any], str]:
    """A link, and the address of what it shows."""
    made = call.made(f"/threads/{thread}/shares", lifetime=body.pop("lifetime", "week"), **body)
    return made, f"/shared-threads/{made['url'].rsplit('/', 1)[1]}"


def texts(shown: tuple[int, Any]) -> list[str]:
    assert shown[0] == 200, shown
    return [row["content"][0]["text"] for row in shown[1]["data"]]


def test_a_link_shows_the_branch_up_to_its_message(call: Caller, visitor: Caller, thread: Thread) -> None:
    one = call.said(thread.id, "1")
    two = call.said(thread.id, "2", role="assistant")
    call.said(thread.id, "2, again", role="assistant", parent_id=one["id"])
    whole, shown = link(call, thread.id)
    _, hidden_branch = link(call, thread.id, message_id=two["id"])
    later = call.said(thread.id, "private")
    assert whole["url"].startswith("http://localhost:8000/shared/threads/")
    assert texts(visitor("get", shown)) == ["2, again", "1"]
    assert texts(visitor("get", hidden_branch)) == ["2", "1"]
    page = visitor("get", shown, limit=1)[1]
    assert texts(visitor("get", shown, before=page["next_cursor"])) == ["1"]
    assert visitor("get", shown, before=later["id"])[0] == 404
    assert visitor("get", shown, before="msg_none")[0] == 404
    # earlier than the link's last message, and on a branch that it does not show
    assert visitor("get", shown, before=two["id"])[0] == 404


def test_a_shared_page_is_safe_and_bounded(
    call: Caller, visitor: Caller, thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.store.catalogue.markdown_blocks.MAX_ON_PAGE", 20)
    picture = {"type": "image_url", "image_url": {"url": "javascript:alert(1)"}}
    call.said(thread.id, [picture])  # type: ignore[arg-type]
    call.said(thread.id, "**older** and longer", role="assistant")
    call.said(thread.id, "**newest**", role="assistant")
    made, _ = link(call, thread.id)
    page = visitor.client.get(made["url"].removeprefix("http://localhost:8000")).get_data(as_text=True)
    assert "javascript:" not in page
    assert ("<strong>newest</strong>" in page, "**older** and longer" in page) == (True, True)


def test_a_link_hides_money_documents_and_instructions(call: Caller, visitor: Caller, thread: Thread) -> None:
    threads.change_thread(thread, instructions="hidden instructions")
    threads.append(thread, role="system", content="hidden system")
    threads.append(
        thread,
        role="user",
        content=[
            {"type": "text", "text": "What does it say?"},
            {"type": "file", "document_id": "file-hidden", "name": "a.pdf"},
        ],
        metadata={"hidden": "hidden"},
    )
    call_of_tool = {"id": "hidden", "function": {"name": "file_search", "arguments": "hidden"}}
    threads.append(thread, role="assistant", content="", tool_calls=[call_of_tool])
    threads.append(thread, role="tool", content="hidden text", tool_call_id="hidden")
    threads.append(
        thread,
        role="assistant",
        content=[{"type": "reasoning", "text": "hidden"}, {"type": "text", "text": "It says: quote"}],
        model="stoa/demo",
        credits=731,
        message_id="hidden",
        usage={"hidden": 1},
        citations=[
            {"valid": False, "chunk_id": "hidden", "quote": "hidden"},
            {
                "valid": True,
                "number": 1,
                "chunk_id": "hidden",
                "document_id": "hidden",
                "name": "a.pdf",
                "unit": "page",
                "first": 7,
                "last": 7,
                "quote": "quote",
            },
        ],
    )
    db.session.commit()
    _, shown = link(call, thread.id)
    status, answer = visitor("get", shown)
    assert status == 200
    assert "hidden" not in str(answer)
    assert "731" not in str(answer)
    assert thread.user_id not in str(answer)
    last, tool, question = answer["data"]
    assert last["model"] == "stoa/demo"
    assert last["citations"] == [
        {"number": 1, "name": "a.pdf", "unit": "page", "first": 7, "last": 7, "quote": "quote"}
    ]
    assert tool["tools"] == ["file_search"]
    assert question["content"][1] == {"type": "file", "name": "a.pdf"}


def test_a_link_ends_by_revocation_expiry_and_deletion(
    call: Caller, visitor: Caller, stranger: Caller, thread: Thread
) -> None:
    call.said(thread.id, "hello")
    path = f"/threads/{thread.id}/shares"
    revoked, first = link(call, thread.id)
    expired, second = link(call, thread.id, lifetime="day")
    _, third = link(call, thread.id, lifetime="never")
    assert [visitor("get", each)[0] for each in (first, second, third)] == [200] * 3
    assert stranger("delete", f"{path}/{revoked['id']}")[0] == 404
    assert call("delete", f"{path}/{revoked['id']}")[1]["revoked_at"]
    assert call("delete", f"{path}/{revoked['id']}")[0] == 404
    share = db.session.get_one(ThreadShare, expired["id"])
    assert share.expires_at
    assert share.expires_at - share.created_at == timedelta(days=1)
    share.expires_at = now()
    db.session.commit()
    assert [visitor("get", each)[0] for each in (first, second, third)] == [404, 404, 200]
    assert len(call("get", path)[1]["data"]) == 1
    call("delete", f"/threads/{thread.id}")
    assert visitor("get", third)[0] == 404
    call("post", f"/threads/{thread.id}/restore")
    assert visitor("get", third)[0] == 200
    for token in ("x", "a" * 43, "\0", "ü"):
        assert visitor("get", f"/shared-threads/{token}")[0] == 404
    assert [entry.action for entry in db.session.scalars(select(AuditLog).order_by(AuditLog.id))] == [
        *["thread.shared"] * 3,
        "thread.share_revoked",
    ]


def test_ones_links_are_listed_with_their_views(call: Caller, visitor: Caller, thread: Thread) -> None:
    call.said(thread.id, "1")
    call.said(thread.id, "2")
    made = [link(call, thread.id)[0]["id"] for _ in range(3)]
    _, shown = link(call, thread.id)
    page = visitor("get", shown, limit=1)[1]
    visitor("get", shown, limit=1, before=page["next_cursor"])  # the same visit
    visitor("get", shown)
    call("delete", f"/threads/{thread.id}/shares/{made[0]}")
    found, cursor = [], None
    while cursor != "":
        answer = call("get", "/thread-shares", limit=3, **({"cursor": cursor} if cursor else {}))[1]
        found += answer["data"]
        cursor = answer["next_cursor"] or ""
    assert [row["views"] for row in found] == [2, 0, 0, 0]
    assert [row["active"] for row in found] == [True, True, True, False]
    assert {row["thread_name"] for row in found} == {"Trees"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"lifetime": "year"},
        {"lifetime": None},
        {"lifetime": "day", "message_id": 1},
        {"lifetime": "day", "x": 1},
    ],
)
def test_a_wrong_link_is_422(call: Caller, thread: Thread, body: Any) -> None:
    call.said(thread.id, "hello")
    assert call("post", f"/threads/{thread.id}/shares", body)[0] == 422


def test_what_cannot_be_shared(call: Caller, thread: Thread) -> None:
    path = f"/threads/{thread.id}/shares"
    assert call("post", path, {"lifetime": "day"})[0] == 422, "an empty thread"
    call.said(thread.id, "hello")
    assert call("post", path, {"lifetime": "day", "message_id": "msg_none"})[0] == 404
    db.session.add_all(
        ThreadShare(
            thread_id=thread.id,
            head_id=db.session.scalars(select(ThreadMessage.id)).one(),
            user_id=thread.user_id,
            token_hash=str(each),
        )
        for each in range(20)
    )
    db.session.commit()
    assert call("post", path, {"lifetime": "day"})[0] == 409


def test_a_visitor_goes_on_with_a_copy(
    client: FlaskClient,
    call: Caller,
    stranger: Caller,
    visitor: Caller,
    acme: Org,
    bob: Person,
    thread: Thread,
) -> None:
    threads.change_thread(thread, instructions="hidden", model="stoa/demo", budget=5)
    db.session.commit()
    call.said(thread.id, "1")
    call.said(
        thread.id,
        [{"type": "text", "text": "2"}, {"type": "file", "document_id": "hidden", "name": "hidden"}],  # type: ignore[arg-type]
        role="assistant",
        tool_calls=[{"function": {"name": "hidden"}}],
    )
    call.said(thread.id, "hidden", role="tool", tool_call_id="x")
    call.said(thread.id, "3")
    _, shown = link(call, thread.id)
    call.said(thread.id, "hidden")
    assert visitor("post", f"{shown}/copy")[0] == 401
    copy = stranger.made(f"{shown}/copy")
    assert (copy["name"], copy["model"], copy["instructions"], copy["budget"]) == (
        "Trees",
        "stoa/demo",
        None,
        None,
    )
    messages = stranger("get", f"/threads/{copy['id']}/messages")[1]["data"]
    assert "hidden" not in str(messages)
    assert [row["content"][0]["text"] for row in messages] == ["3", "2", "1"]
    assert [row["seq"] for row in messages] == [3, 2, 1]
    assert {row["branch_id"] for row in messages} == {messages[-1]["id"]}
    more = stranger.said(copy["id"], "4")
    assert (more["seq"], more["parent_id"]) == (4, messages[0]["id"])
    assert call("get", f"/threads/{copy['id']}")[0] == 404
    assert bob.user
    member = Caller(client, factories.token(bob.user, org_id=acme.id))
    assert db.session.get_one(Thread, member.made(f"{shown}/copy")["id"]).account_id == acme.id
    assert stranger("post", "/shared-threads/x/copy")[0] == 404


def test_a_leaving_members_links_end(
    client: FlaskClient, visitor: Caller, acme: Org, alice: Person, bob: Person
) -> None:
    assert bob.user
    own = Caller(client, bob.token)
    member = Caller(client, factories.token(bob.user, org_id=acme.id))
    addresses = []
    for caller in (own, member):
        id = caller.made(name="x")["id"]
        caller.said(id, "hello")
        addresses.append(link(caller, id)[1])
    offboard(acme, alice.id, bob.id, {}, now())
    db.session.commit()
    assert [visitor("get", each)[0] for each in addresses] == [200, 404]


def test_a_copy_of_a_long_thread_is_refused(
    call: Caller, thread: Thread, mallory: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.core.errors import Conflict

    monkeypatch.setattr("models.threads.thread_share.MAX_COPIED", 2)
    for _ in range(3):
        call.said(thread.id, "x")
    _, shown = link(call, thread.id)
    with pytest.raises(Conflict):
        copy_shared(shown.rsplit("/", 1)[1], mallory.id, mallory.account)
    assert shared_thread(shown.rsplit("/", 1)[1])[1].id == thread.id


def test_a_copy_has_the_documents_only_if_the_link_gives_them(
    call: Caller, stranger: Caller, mallory: Person, thread: Thread
) -> None:
    shown, unseen = (
        add_document(thread.account_id, thread.user_id, "thread", thread.id, name, name.encode())
        for name in ("shown.txt", "unseen.txt")
    )
    db.session.commit()
    attach = [
        {"type": "text", "text": "Read this"},
        {"type": "file", "document_id": shown.id, "name": "shown.txt"},
    ]
    call.said(thread.id, attach)  # type: ignore[arg-type]
    _, without = link(call, thread.id)
    made, given = link(call, thread.id, with_documents=True)
    assert made["with_documents"] is True
    call.said(thread.id, [{"type": "file", "document_id": unseen.id, "name": "unseen.txt"}])  # type: ignore[arg-type]
    bare = stranger.made(f"{without}/copy")["id"]
    assert documents_of("thread", bare) == []
    full = stranger.made(f"{given}/copy")["id"]
    (document,) = documents_of("thread", full)
    assert (document.name, document.account_id, document.user_id) == ("shown.txt", mallory.id, mallory.id)
    (message,) = stranger("get", f"/threads/{full}/messages")[1]["data"]
    assert message["content"][1] == {"type": "file", "document_id": document.id, "name": "shown.txt"}
    assert shown.id not in str(stranger("get", given))


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,<b>", "https://stoa.test/a.png"])
def test_the_address_of_a_picture_is_a_link_only_to_the_web(
    call: Caller, visitor: Caller, client: FlaskClient, thread: Thread, address: str
) -> None:
    picture = [{"type": "image_url", "image_url": {"url": address}}]
    call.made(f"/threads/{thread.id}/messages", role="user", content=picture)
    made, _ = link(call, thread.id)
    page = client.get("/shared/threads/" + made["url"].rsplit("/", 1)[1]).text
    assert "Attached picture" in page
    assert (f'href="{address}"' in page) == address.startswith("https:")
    assert "javascript:" not in page
    assert "data:text" not in page


@pytest.mark.parametrize(
    ("values", "status"),
    [({}, 200), ({"banned": True}, 404), ({"deleted_at": "now"}, 404), ({"banned": True, "deleted_at": "now"}, 404)],
    ids=["open", "suspended", "deleted", "both"],
)  # fmt: skip
def test_links_of_suspended_and_deleted_owners_do_not_work(
    call: Caller,
    stranger: Caller,
    visitor: Caller,
    thread: Thread,
    alice: Person,
    values: dict[str, Any],
    status: int,
) -> None:
    call.said(thread.id, "1")
    made, shown = link(call, thread.id)
    changes = {name: now() if value == "now" else value for name, value in values.items()}
    if changes:
        db.session.execute(update(User).where(User.id == alice.id).values(changes))
        db.session.commit()
    page = made["url"].removeprefix("http://localhost:8000")
    assert visitor("get", shown)[0] == status
    assert visitor.client.get(page).status_code == status
    assert (stranger("post", f"{shown}/copy", {})[0] == 404) == (status == 404)
    unknown = visitor("get", "/shared-threads/unknown")
    assert status == 200 or visitor("get", shown)[1]["error"] == unknown[1]["error"]


def test_links_of_a_deleted_organisation_do_not_work(
    alice: Person, visitor: Caller, session: OrmSession
) -> None:
    assert alice.user is not None
    org = factories.org(alice.user, "Umbrella")
    found = threads.create_thread(alice.id, Account(org_id=org.id), name="Trees")
    threads.append(found, role="user", content="1")
    share = share_thread(found, "week")
    session.commit()
    path = f"/shared-threads/{share.token}"
    assert visitor("get", path)[0] == 200
    delete_org(org)
    session.commit()
    assert visitor("get", path)[0] == 404
