"""Pages of threads: who sees them, what their forms do, and what they say when something is wrong."""

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models import assistants, threads
from models.core.db import db, extension
from models.ledger import Account
from models.orgs import Org
from models.threads import Thread, ThreadMessage
from models.turns import Turn, TurnEngine
from models.turns.turn_verbs import reclaim
from tests import factories
from tests.factories import Person

Post = Callable[..., Any]


def send(browser: FlaskClient, path: str, fields: dict[str, Any]) -> Any:
    token = (browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return browser.post(path, data={"csrf_token": token, **fields})


@pytest.fixture
def engine_of_turns(app: Flask) -> TurnEngine:
    found: TurnEngine = app.extensions["turns"]
    return found


@pytest.fixture
def post(alice: Person, engine_of_turns: TurnEngine) -> Post:
    """A form of alice, answered by the demo model; its answer is awaited."""
    factories.grant(alice.user, 100_000)
    db.session.commit()

    def post(path: str, *, by: FlaskClient | None = None, **fields: Any) -> Any:
        answer = send(by or alice.browser, path, {"model": "stoa/demo", **fields})
        assert engine_of_turns.idle(20)
        db.session.rollback()
        return answer

    return post


@pytest.fixture
def asked(post: Post) -> str:
    """The address of a thread with a question and its answer."""
    answer = post("/threads", content="What is a stoa?\nIn one sentence.")
    assert answer.status_code == 303
    return str(answer.location)


def messages(path: str) -> list[ThreadMessage]:
    thread = db.session.get_one(Thread, path.rpartition("/")[2])
    return list(reversed(threads.path(thread)))


def test_a_thread_begins_with_a_message_and_shows_its_answer(asked: str, alice: Person) -> None:
    page = alice.browser.get(asked)
    assert page.status_code == 200
    assert '<h1 id="thread-h">What is a stoa?</h1>' in page.text
    assert [each.role for each in messages(asked)] == ["user", "assistant"]
    assert "stoa/demo" in page.text
    assert "http-equiv" not in page.text
    assert re.search(r'href="/calls/[^"]+">\S+ credits', page.text)
    assert "What is a stoa?" in alice.browser.get("/threads").text


def test_an_edit_is_a_version_and_versions_can_be_chosen(asked: str, post: Post, alice: Person) -> None:
    first = messages(asked)[0]
    assert post(f"{asked}/messages", content="And a temple?", edits=first.id).location == asked
    second = messages(asked)[0]
    assert (second.text, second.parent_id) == ("And a temple?", None)
    page = alice.browser.get(asked).text
    assert "2 / 2" in page
    assert "In one sentence" not in page
    assert post(f"{asked}/branch", message=first.id).status_code == 303
    page = alice.browser.get(asked).text
    assert "1 / 2" in page
    assert "In one sentence" in page
    assert "And a temple?" in alice.browser.get(f"{asked}?branch={second.id}").text


def test_answering_again_keeps_both_answers(asked: str, post: Post, alice: Person) -> None:
    question, answer = messages(asked)
    post(f"{asked}/answers", parent=question.id)
    again = messages(asked)[-1]
    assert again.id != answer.id
    assert again.parent_id == answer.parent_id == question.id
    assert "2 / 2" in alice.browser.get(asked).text


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"content": " "}, "Enter a message."),
        ({"content": "x\0", "model": ""}, "Choose a model."),
        ({"content": "y" * (1 << 20)}, "more than 1 MB"),
        ({"content": "x", "parent": "msg_none"}, None),
    ],
)
def test_what_cannot_be_sent_comes_back(
    asked: str, post: Post, fields: dict[str, str], problem: str | None
) -> None:
    thread = db.session.get_one(Thread, asked.rpartition("/")[2])
    thread.model = None
    db.session.commit()
    answer = post(f"{asked}/messages", **fields)
    assert answer.status_code == (422 if problem else 404)
    assert problem is None or problem in answer.text
    assert len(messages(asked)) == 2


def test_a_new_thread_that_cannot_be_sent_comes_back(post: Post, alice: Person) -> None:
    answer = post("/threads", content=" ", model="stoa/demo")
    assert answer.status_code == 422
    assert "Enter a message." in answer.text
    assert post("/threads", content="hello", model="").status_code == 422
    assert post("/threads", content="hello", assistant="agnt_none").status_code in (404, 422)
    assert "Your threads appear here" in alice.browser.get("/threads").text


def test_a_failed_answer_says_why_and_can_be_tried_again(asked: str, post: Post, alice: Person) -> None:
    post(f"{asked}/messages", content="Hm", model="no/such-model")
    page = alice.browser.get(asked).text
    assert "No answer" in page
    assert "Try again" in page
    post(f"{asked}/answers", parent=messages(asked)[-1].id)
    page = alice.browser.get(asked).text
    assert "No answer" not in page
    assert len(messages(asked)) == 4


def test_threads_are_found_by_their_words(asked: str, alice: Person) -> None:
    found = alice.browser.get("/threads?q=sentence").text
    assert "<mark>sentence</mark>" in found
    assert "No thread has" in alice.browser.get("/threads?q=zebra").text
    assert alice.browser.get(f"/threads?q={'x' * 300}").status_code == 422
    assert alice.browser.get("/threads?before=x").status_code == 422


def test_a_deleted_thread_can_be_restored(asked: str, post: Post, alice: Person) -> None:
    assert alice.browser.get(f"{asked}/deletion").status_code == 200
    assert post(f"{asked}/deletion").location == "/threads"
    assert asked not in alice.browser.get("/threads").text
    assert asked in alice.browser.get("/threads?deleted=1").text
    assert "This thread is deleted" in alice.browser.get(asked).text
    assert post(f"{asked}/messages", content="more").status_code == 404
    assert post(f"{asked}/restoration").location == asked
    assert asked in alice.browser.get("/threads").text


def test_settings_are_saved_or_come_back(asked: str, post: Post, alice: Person) -> None:
    saved = {"name": "Temples", "instructions": "Be brief.", "budget": "2,000"}
    assert post(f"{asked}/settings", **saved).location == asked
    thread = db.session.get_one(Thread, asked.rpartition("/")[2])
    assert (thread.name, thread.instructions, thread.budget) == ("Temples", "Be brief.", 2000)
    wrong = post(f"{asked}/settings", name="x", budget="lots")
    assert wrong.status_code == 422
    assert "Enter whole credits" in wrong.text
    assert 'value="lots"' in wrong.text
    assert post(f"{asked}/settings", name=" ").status_code == 422


def test_a_used_up_budget_pauses_and_a_raised_one_resumes(asked: str, post: Post, alice: Person) -> None:
    thread = db.session.get_one(Thread, asked.rpartition("/")[2])
    thread.budget = 0
    db.session.commit()
    post(f"{asked}/messages", content="And now?")
    page = alice.browser.get(asked).text
    assert "Paused" in page
    assert "budget of this thread" in page
    post(f"{asked}/settings", name="x", budget="5000")
    assert "Paused" not in alice.browser.get(asked).text
    assert len(messages(asked)) == 4


def test_exports(asked: str, alice: Person) -> None:
    whole = alice.browser.get(f"{asked}/export/json")
    assert len(whole.json["messages"]) == 2
    assert "what-is-a-stoa.json" in whole.headers["Content-Disposition"]
    assert "What is a stoa?" in alice.browser.get(f"{asked}/export/md").text
    assert alice.browser.get(f"{asked}/export/pdf").status_code == 404


def test_files_are_attached_and_removed(asked: str, post: Post, alice: Person) -> None:
    note = (io.BytesIO(b"Columns stand in rows."), "note.txt")
    assert post(f"{asked}/documents", files=note).status_code == 303
    page = alice.browser.get(f"{asked}/documents").text
    assert "note.txt" in page
    id = re.findall(r"/documents/(file-[0-9a-f]+)", page)[0]
    wrong = post(f"{asked}/documents", files=(io.BytesIO(b"\x7fELF\0\1\2" * 40), "a.bin"))
    assert wrong.status_code == 422
    assert "a.bin" in wrong.text
    assert post(f"{asked}/documents").status_code == 422
    assert (
        post(f"{asked}/messages", content="Read it", files=(io.BytesIO(b"More"), "more.txt")).status_code
        == 303
    )
    assert [part["type"] for part in messages(asked)[2].content] == ["file", "text"]
    assert post(f"{asked}/documents/{id}/deletion").status_code == 303
    assert "note.txt" not in alice.browser.get(f"{asked}/documents").text


def test_a_link_shows_the_messages_and_nothing_else(
    asked: str, post: Post, alice: Person, mallory: Person, anonymous: Person
) -> None:
    assert post(f"{asked}/share", lifetime="week").status_code == 303
    link = re.findall(r"/shared/threads/[\w-]+", alice.browser.get(f"{asked}/share").text)[0]
    post(f"{asked}/messages", content="A secret")
    page = anonymous.browser.get(link)
    assert page.status_code == 200
    assert "What is a stoa?" in page.text
    assert "A secret" not in page.text
    assert "credits</a>" not in page.text
    assert alice.user.email not in page.text
    assert page.headers["X-Robots-Tag"] == "noindex, nofollow"
    assert send(anonymous.browser, f"{link}/copies", {}).status_code in (302, 303)
    copied = send(mallory.browser, f"{link}/copies", {})
    assert copied.status_code == 303
    assert "What is a stoa?" in mallory.browser.get(copied.location).text
    links = alice.browser.get("/threads/links").text
    assert "Works" in links
    share_id = re.findall(r"/shares/([\w-]+)/revocation", links)[0]
    assert post(f"{asked}/shares/{share_id}/revocation", back="1").location == "/threads/links"
    assert anonymous.browser.get(link).status_code == 404
    assert "Revoked" in alice.browser.get("/threads/links").text
    assert post(f"{asked}/share", lifetime="ever").status_code == 422


VARIABLES = {
    "tone": {"type": "enum", "values": ["warm", "dry"], "required": True},
    "words": {"type": "number", "default": 50},
    "greet": {"type": "boolean"},
    "company": {"type": "string", "default": "Acme", "description": "Whom it writes for"},
}


@pytest.fixture
def writer(alice: Person) -> str:
    """The id of an assistant of alice with variables."""
    fields = {
        "name": "Writer",
        "instructions": "{{tone}} {{words}} {{greet}} {{company}}",
        "variables": VARIABLES,
    }
    made = assistants.create_assistant(alice.id, Account(user_id=alice.id), fields, extension("settings"))
    db.session.commit()
    return made.assistant.id


def asked_with() -> list[dict[str, Any]]:
    """The variables of all turns, oldest first."""
    return [turn.request["variables"] for turn in db.session.query(Turn).order_by(Turn.created_at)]


def test_variables_of_an_assistant_are_fields(post: Post, alice: Person, writer: str) -> None:
    page = alice.browser.get(f"/threads/new?assistant={writer}").text
    assert '<option value="" selected>Choose</option><option value="warm">' in page
    assert 'name="variable.words" type="text" value="50"' in page
    assert '<option value="true">Yes</option>' in page
    assert "Whom it writes for" in page
    assert "variable.tone" not in alice.browser.get("/threads/new").text
    asked = {"content": "Hello", "assistant": writer}
    for fields, problem in (
        ({}, "Give a value: it is required."),
        ({"variable.tone": "loud"}, "Give one of: warm, dry."),
        ({"variable.tone": "dry", "variable.words": "many\0"}, "Give a number."),
    ):
        answer = post("/threads", **asked, **fields)
        assert answer.status_code == 422
        assert problem in answer.text
    assert 'value="many"' in answer.text
    assert '<option value="dry" selected>' in answer.text
    fields = {"variable.tone": "dry", "variable.words": "50", "variable.company": "", "variable.none": "x"}
    thread = post("/threads", **asked, **fields).location
    assert asked_with() == [{"tone": "dry"}], "defaults are the assistant's, and others are not sent"
    assert '<option value="dry" selected>' in alice.browser.get(thread).text


def test_forms_beside_messages_keep_the_variables(post: Post, alice: Person, writer: str) -> None:
    fields = {"assistant": writer, "variable.tone": "dry", "variable.greet": "true"}
    thread = post("/threads", content="Hello", **fields).location
    question = messages(thread)[0]
    assert post(f"{thread}/messages", content="Hello again", edits=question.id).status_code == 303
    assert post(f"{thread}/answers", parent=question.id).status_code == 303
    assert post(f"{thread}/answers", parent=question.id, **{"variable.tone": "warm"}).status_code == 303
    kept = {"tone": "dry", "greet": "true"}
    assert asked_with() == [kept, kept, kept, {"tone": "warm"}]


def test_a_message_can_stop_the_answer_that_is_paused(
    asked: str, post: Post, alice: Person, engine_of_turns: TurnEngine
) -> None:
    thread = db.session.get_one(Thread, asked.rpartition("/")[2])
    thread.budget = thread.spent
    db.session.commit()
    post(f"{asked}/messages", content="And a temple?")
    page = alice.browser.get(asked).text
    assert "Paused" in page
    assert re.search(r'<button[^>]*name="on_busy" value="interrupt" data-interrupt>Stop and send', page)
    assert ">Queue</span>" in page
    answer = post(f"{asked}/messages", content="Forget it", on_busy="interrupt")
    assert answer.status_code == 303
    for taken in reclaim(engine_of_turns.owner):
        # the next worker that looks ends the paused one
        db.session.commit()
        engine_of_turns.run(taken.id, taken_over=True)
    assert engine_of_turns.idle(20)
    db.session.rollback()
    states = [turn.state for turn in db.session.query(Turn).order_by(Turn.created_at)]
    assert states == ["completed", "cancelled", "paused"]


PAGES = ("", "/settings", "/deletion", "/share", "/documents", "/export/json")
FORMS = (
    "messages",
    "answers",
    "branch",
    "stop",
    "resumption",
    "deletion",
    "restoration",
    "settings",
    "share",
    "documents",
)


def test_others_find_nothing(asked: str, mallory: Person, bob: Person, anonymous: Person) -> None:
    turn = db.session.query(Turn.id).scalar()
    pages = [*PAGES, f"/turns/{turn}/events"]
    for who in (mallory, bob):
        assert {who.browser.get(asked + page).status_code for page in pages} == {404}
        fields = {"content": "x", "model": "stoa/demo", "turn": turn, "name": "x"}
        for form in (*FORMS, "shares/x/revocation", "documents/x/deletion"):
            assert send(who.browser, f"{asked}/{form}", fields).status_code == 404, form
        assert asked not in who.browser.get("/threads").text
    for page in pages:
        assert "/login" in anonymous.browser.get(asked + page).location
    assert "/login" in send(anonymous.browser, f"{asked}/messages", {"content": "x"}).location
    assert len(messages(asked)) == 2


def test_threads_of_an_organisation_are_paid_by_it(
    alice: Person, bob: Person, mallory: Person, acme: Org, post: Post
) -> None:
    factories.grant(alice.user, 5_000, "organization", org_id=acme.id)
    db.session.commit()
    answer = post(f"/orgs/{acme.slug}/threads", by=bob.browser, content="Hello")
    assert answer.status_code == 303
    assert answer.location.startswith(f"/orgs/{acme.slug}/threads/thrd_")
    thread = db.session.get_one(Thread, answer.location.rpartition("/")[2])
    assert (thread.account_id, thread.user_id) == (acme.id, bob.id)
    assert [each.role for each in messages(answer.location)] == ["user", "assistant"]
    page = bob.browser.get(answer.location).text
    assert f'action="/orgs/{acme.slug}/threads/{thread.id}/messages"' in page
    assert alice.browser.get(answer.location).status_code == 404, "another member's thread is private"
    assert mallory.browser.get(answer.location).status_code == 404
    assert bob.browser.get(f"/threads/{thread.id}").status_code == 404
    assert Account(org_id=acme.id).id == thread.account_id


def test_the_stream_of_a_turn_ends_with_its_page(asked: str, alice: Person) -> None:
    turn = db.session.query(Turn.id).scalar()
    whole = alice.browser.get(f"{asked}/turns/{turn}/events")
    assert whole.content_type == "text/event-stream"
    assert whole.text.count("event: put") >= 3
    assert 'event: end\ndata: {"state":"completed"}' in whole.text
    late = alice.browser.get(f"{asked}/turns/{turn}/events", headers={"Last-Event-ID": "9999"}).text
    assert "event: blocks" not in late
    assert "event: end" in late
    assert alice.browser.get(f"{asked}/turns/turn_none/events").status_code == 404
