"""Pages of conversations: the list, a new one, one with its timeline, its forms, and who sees and does what."""

import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from markupsafe import escape
from sqlalchemy import select

from models.conversations import ConversationQuestion, ProjectConversation, TimelineItem
from models.conversations.conversation_questions import new_question
from models.core.db import db
from models.orgs import Org
from models.projects import Workspace
from models.threads import Thread
from models.turns import Turn, TurnEngine
from tests.conversations.talks import Talk
from tests.factories import Person

EDIT = "In README.md replace 'Twelve' with 'Twenty'."


def send(browser: FlaskClient, path: str, fields: dict[str, Any], **headers: str) -> Any:
    """Post a form with its token."""
    token = (browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return browser.post(path, data={"csrf_token": token, **fields}, headers=headers)


def base_of(talk: Talk) -> str:
    return f"/projects/{talk.project_id}/conversations"


def path_of(talk: Talk) -> str:
    return f"{base_of(talk)}/{talk.id}"


def settled(engine: TurnEngine) -> None:
    assert engine.idle(60)
    db.session.rollback()
    db.session.expire_all()


def new_fields(talk: Talk, **more: str) -> dict[str, str]:
    fields = {"workspace": talk.workspace_id, "engine": "builtin", "level": "virtual", "model": "stoa/demo"}
    return {**fields, "content": EDIT, **more}


def test_a_conversation_begins_with_its_first_prompt(talk: Talk) -> None:
    browser = talk.person.browser
    page = browser.get(f"{base_of(talk)}/new")
    assert page.status_code == 200
    assert "nothing is executed" in page.text
    answer = send(browser, base_of(talk), new_fields(talk, budget="5,000"))
    assert answer.status_code == 303, answer.text
    settled(talk.engine)
    made = db.session.get_one(ProjectConversation, answer.location.rpartition("/")[2])
    assert (made.engine, made.level, made.title) == ("builtin", "virtual", EDIT)
    assert db.session.get_one(Thread, made.thread_id).budget == 5_000
    shown = browser.get(answer.location).text
    assert "1 file changed" in shown
    assert "Branch here" in shown
    assert re.search(r'href="[^"]+/operations/[^"]+/undo"', shown)
    assert "edit_file" in shown
    assert "http-equiv" not in shown
    assert str(escape(EDIT)) in browser.get(base_of(talk)).text


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"content": "  "}, "Say what to do."),
        ({"workspace": "none"}, "Choose a workspace."),
        ({"engine": "other"}, "must be one of"),
        ({"engine": "store", "agent": ""}, "Name an agent"),
        ({"engine": "acp", "command": ""}, "Name the"),
        ({"level": "x"}, "must be one of"),
        ({"budget": "many"}, "Enter whole credits"),
        ({"content": "x" * 200_001}, "Too long."),
        ({"model": "m" * 400}, "at most"),
    ],
)
def test_a_conversation_that_cannot_begin_comes_back(
    talk: Talk, fields: dict[str, str], problem: str
) -> None:
    answer = send(talk.person.browser, base_of(talk), new_fields(talk, **fields))
    assert answer.status_code == 422, answer.text
    assert problem in answer.text
    assert db.session.scalars(select(ProjectConversation.id)).all() == [talk.id]


def test_what_is_said_is_answered_on_the_page_and_with_htmx(talk: Talk) -> None:
    browser, path = talk.person.browser, path_of(talk)
    assert "Nothing said yet" in browser.get(path).text
    answer = send(browser, f"{path}/messages", {"content": EDIT})
    assert (answer.status_code, answer.location) == (303, path)
    settled(talk.engine)
    assert talk.files()["README.md"] == "# Pier\n\nTwenty columns.\n"
    again = send(browser, f"{path}/messages", {"content": "What is a pier?"}, **{"HX-Request": "true"})
    assert again.status_code == 200
    assert again.text.lstrip().startswith('<div class="talk"')
    settled(talk.engine)
    empty = send(browser, f"{path}/messages", {"content": " "})
    assert empty.status_code == 422
    assert "Say what to do." in empty.text


def test_the_timeline_shows_each_change_with_its_texts(talk: Talk) -> None:
    talk.said(EDIT)
    item = db.session.scalars(select(TimelineItem)).one()
    browser = talk.person.browser
    assert item.id in browser.get(f"{path_of(talk)}/timeline").text
    page = browser.get(f"{path_of(talk)}/timeline/{item.id}")
    assert "Twelve columns." in page.text
    assert "Twenty columns." in page.text
    assert browser.get(f"{path_of(talk)}/timeline/none").status_code == 404


def test_a_branch_has_the_files_after_a_change_and_a_conversation_of_its_own(talk: Talk) -> None:
    talk.said(EDIT)
    item = db.session.scalars(select(TimelineItem)).one()
    talk.said("In README.md replace 'Twenty' with 'Ten'.")
    path = f"{path_of(talk)}/timeline/{item.id}/branch"
    assert send(talk.person.browser, path, {"name": ""}).status_code == 422
    assert send(talk.person.browser, path, {"name": "main"}).status_code == 422
    answer = send(talk.person.browser, path, {"name": "twenty"})
    assert answer.status_code == 303
    db.session.rollback()
    made = db.session.get_one(ProjectConversation, answer.location.rpartition("/")[2])
    workspace = db.session.get_one(Workspace, made.workspace_id)
    assert (workspace.name, workspace.current_snapshot_id) == ("twenty", item.snapshot_id)
    assert talk.files(workspace.current_manifest_hash)["README.md"] == "# Pier\n\nTwenty columns.\n"
    assert "Twelve" not in talk.files()["README.md"]


def test_the_files_are_saved_as_a_snapshot_once(talk: Talk) -> None:
    path = f"{path_of(talk)}/snapshot"
    before = talk.workspace.current_snapshot_id
    assert send(talk.person.browser, path, {}).status_code == 303
    assert talk.workspace.current_snapshot_id == before
    assert "in a snapshot already" in talk.person.browser.get(path_of(talk)).text


def test_settings_are_saved_and_a_conversation_is_emptied(talk: Talk) -> None:
    talk.said("What is a pier?")
    browser, path = talk.person.browser, path_of(talk)
    assert browser.get(f"{path}/settings").status_code == 200
    wrong = send(browser, f"{path}/settings", {"title": "x" * 300, "level": "virtual"})
    assert wrong.status_code == 422
    fields = {"title": "Tides", "workspace": talk.workspace_id, "level": "virtual", "budget": "900"}
    assert send(browser, f"{path}/settings", fields).status_code == 303
    db.session.rollback()
    found = talk.found()
    assert (found.conversation.title, found.thread.budget) == ("Tides", 900)
    assert browser.get(f"{path}/emptying").status_code == 200
    assert send(browser, f"{path}/emptying", {}).status_code == 303
    assert "Nothing said yet" in browser.get(path).text


def test_a_question_is_answered_on_the_page(talk: Talk) -> None:
    turn = talk.said("Call the tool ask_user with the question")
    page = talk.person.browser.get(path_of(talk)).text
    question = db.session.scalars(select(ConversationQuestion)).one()
    assert turn.state == "requires_action", (turn.error_code, turn.error_message)
    assert "The agent asks you" in page
    path = f"{path_of(talk)}/questions/{question.id}"
    assert send(talk.person.browser, path, {"words-1": " "}).status_code == 422
    assert send(talk.person.browser, path, {"words-1": "The roof"}).status_code == 303
    settled(talk.engine)
    assert db.session.get_one(ConversationQuestion, question.id).answers == [["The roof"]]
    assert db.session.get_one(Turn, turn.id).state == "completed"
    assert send(talk.person.browser, path, {"words-1": "Again"}).status_code == 404


def test_a_permission_is_given_or_refused(talk: Talk) -> None:
    turn = talk.said("What is a pier?")
    asked = {"question": "Run the tests?", "options": [{"label": "Allow"}, {"label": "Refuse"}]}
    first = new_question(talk.id, turn.id, "permission", [asked]).id
    second = new_question(talk.id, turn.id, "permission", [asked]).id
    db.session.commit()
    browser = talk.person.browser
    assert "The agent asks for permission" in browser.get(path_of(talk)).text
    send(browser, f"{path_of(talk)}/questions/{first}", {"answer-1": "Allow"})
    send(browser, f"{path_of(talk)}/questions/{second}", {"reject": "1"})
    db.session.rollback()
    states = {
        each.id: (each.state, each.answers) for each in db.session.scalars(select(ConversationQuestion))
    }
    assert states == {first: ("answered", [["Allow"]]), second: ("rejected", None)}


def test_a_budget_that_is_used_up_pauses_and_is_raised(talk: Talk) -> None:
    turn = talk.begin(EDIT, budget=1)
    talk.ended(turn)
    page = talk.person.browser.get(path_of(talk)).text
    assert "Raise and resume" in page
    path = f"{path_of(talk)}/resumption"
    assert send(talk.person.browser, path, {"turn": turn.id, "budget": "0"}).status_code == 422
    assert send(talk.person.browser, path, {"turn": turn.id, "budget": "50000"}).status_code == 303
    settled(talk.engine)
    assert db.session.get_one(Turn, turn.id).state == "completed"
    assert send(talk.person.browser, path, {"turn": turn.id}).status_code == 422
    assert send(talk.person.browser, f"{path_of(talk)}/stop", {"turn": turn.id}).status_code == 303


def test_the_events_of_a_turn_are_pieces_of_the_page(talk: Talk) -> None:
    turn = talk.said(EDIT)
    stream = talk.person.browser.get(f"{path_of(talk)}/turns/{turn.id}/events")
    assert stream.mimetype == "text/event-stream"
    assert "event: put" in stream.text
    assert "timeline-h" in stream.text
    assert "event: end" in stream.text
    assert talk.person.browser.get(f"{path_of(talk)}/turns/none/events").status_code == 404


PAGES = ("", "/new", "/{id}", "/{id}/settings", "/{id}/emptying", "/{id}/timeline", "/{id}/timeline/{item}")
FORMS = (
    ("", {"content": EDIT}),
    ("/{id}/messages", {"content": EDIT}),
    ("/{id}/stop", {"turn": "{turn}"}),
    ("/{id}/resumption", {"turn": "{turn}"}),
    ("/{id}/questions/none", {"reject": "1"}),
    ("/{id}/settings", {"title": "Mine"}),
    ("/{id}/emptying", {}),
    ("/{id}/snapshot", {}),
    ("/{id}/timeline/{item}/branch", {"name": "stolen"}),
)


def test_strangers_see_and_change_nothing(talk: Talk, mallory: Person, anonymous: Person) -> None:
    turn = talk.said(EDIT)
    ids = {"id": talk.id, "turn": turn.id, "item": db.session.scalars(select(TimelineItem.id)).one()}
    for path in (*PAGES, "/{id}/turns/{turn}/events"):
        address = base_of(talk) + path.format(**ids)
        assert mallory.browser.get(address).status_code == 404, path
        assert anonymous.browser.get(address).status_code == 302, path
    for path, fields in FORMS:
        address = base_of(talk) + path.format(**ids)
        sent = {name: text.format(**ids) for name, text in fields.items()}
        assert send(mallory.browser, address, sent).status_code == 404, path
        assert send(anonymous.browser, address, sent).status_code in (302, 303, 401, 403), path
    db.session.rollback()
    assert db.session.scalars(select(ProjectConversation.id)).all() == [talk.id]
    assert talk.found().conversation.title == EDIT


def test_ids_of_another_project_are_unknown(talk: Talk) -> None:
    other = Talk(talk.person, talk.engine, {})
    for path in ("", "/settings", "/timeline", "/emptying"):
        address = f"{base_of(talk)}/{other.id}{path}"
        assert talk.person.browser.get(address).status_code == 404
    assert talk.person.browser.get(f"{base_of(talk)}/x%00").status_code == 404


def test_pages_stay_with_the_organisation(acme: Org, rich: Person) -> None:
    page = rich.browser.get(f"/orgs/{acme.slug}/projects/none/conversations")
    assert page.status_code == 404
