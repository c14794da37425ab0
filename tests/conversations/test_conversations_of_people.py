"""Conversations in projects of organisations, what the export holds of them, and what is deleted with projects and people."""

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.account_deletion import account_erasing
from models.conversations import ConversationQuestion, ProjectConversation, TimelineItem
from models.core.db import db, now
from models.core.personal_export import export_files
from models.orgs import Org
from models.projects.project_purge import forget_projects
from models.threads import Thread, ThreadMessage, own_thread
from models.threads.thread_listing import ThreadFilter, threads_page
from models.turns import Turn, TurnEngine
from tests import factories
from tests.conversations.talks import Talk
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, typed

ASK = "In README.md replace 'Twelve' with 'Twenty'. Use ask_user to know 'Which roof?'"


@pytest.fixture
def shared(session: OrmSession, client: FlaskClient, acme: Org, alice: Person) -> dict[str, str]:
    """A conversation of alice in a project of acme, which has credits."""
    factories.grant(alice.user, 100_000, type="organization", org_id=acme.id)
    db.session.commit()
    api = ProjectsApi(client, alice)
    query = f"?org_id={acme.id}"
    project = api.project("Ours", query)
    workspace = api.workspace(project)
    api.blob("Twelve columns.\n", query)
    manifest = api.manifest(typed({"README.md": "Twelve columns.\n"}), query)
    api.push(project, manifest, workspace_id=workspace)
    status, body = api("post", "/conversations", {"workspace_id": workspace, "title": "Roof"})
    assert status == 200
    return {"project": project, "workspace": workspace, "id": body["conversation"]["id"]}


def test_a_member_speaks_in_the_organisations_conversation_and_it_pays(
    client: FlaskClient, acme: Org, bob: Person, shared: dict[str, str], engine_of_turns: TurnEngine
) -> None:
    member = ProjectsApi(client, bob)
    [listed] = member("get", "/conversations")[1]["conversations"]
    assert (listed["id"], listed["title"]) == (shared["id"], "Roof")
    prompt = {"prompt": "In README.md replace 'Twelve' with 'Twenty'"}
    status, body = member("post", f"/conversations/{shared['id']}/messages", prompt)
    assert status == 200, body
    assert engine_of_turns.idle(60)
    db.session.rollback()
    turn = db.session.get_one(Turn, body["turnId"])
    assert (turn.state, turn.user_id, turn.account_id) == ("completed", bob.id, acme.id)
    item = db.session.scalars(select(TimelineItem)).one()
    workspace = member("get", f"/workspaces/{shared['workspace']}")[1]["workspace"]
    assert workspace["current_snapshot_id"] == item.snapshot_id


def test_only_members_who_may_change_projects_speak(
    client: FlaskClient, cast: dict[str, Person], shared: dict[str, str]
) -> None:
    path = f"/conversations/{shared['id']}"
    found = {
        name: (
            ProjectsApi(client, cast[name])("get", path)[0],
            ProjectsApi(client, cast[name])("post", f"{path}/stop")[0],
        )
        for name in ("alice", "carol", "bob", "dave", "mallory")
    }
    assert found["alice"] == found["carol"] == found["bob"] == (200, 200)
    assert found["mallory"] == (404, 404)
    assert found["dave"][1] in (403, 404)


def test_the_thread_of_a_conversation_is_in_no_list_and_has_no_other_door(
    talk: Talk, client: FlaskClient
) -> None:
    thread = talk.found().thread
    assert threads_page(ThreadFilter(talk.person.id, talk.person.id), None, 10) == []
    with pytest.raises(Exception, match="no such thread"):
        own_thread(talk.person.id, talk.person.id, thread.id)
    answer = client.post(
        f"/api/v1/threads/{thread.id}/turns", json={"content": "x"}, headers=talk.person.headers
    )
    assert answer.status_code == 404


def test_the_export_holds_what_was_asked_and_changed(talk: Talk, mallory: Person) -> None:
    talk.said(ASK)
    files = {each.name: "".join(each.chunks(talk.person.id)) for each in export_files()}
    assert talk.id in files["conversations.csv"]
    assert "ask" in files["conversation_questions.jsonl"]
    assert "ask_user" in files["thread_messages.jsonl"]
    following = talk.said("What is a pier?", on_busy="interrupt")
    talk.engine.tick()  # takes the one that waited, to end it
    assert talk.ended(following).state == "completed"
    files = {each.name: "".join(each.chunks(talk.person.id)) for each in export_files()}
    assert "1 file changed" in files["conversation_timeline.csv"]
    theirs = {each.name: "".join(each.chunks(mallory.id)) for each in export_files()}
    assert talk.id not in str([theirs[name] for name in files if name.startswith("conversation")])


TABLES: list[Any] = [ProjectConversation, TimelineItem, ConversationQuestion, Thread, ThreadMessage, Turn]


@pytest.mark.parametrize("how", ["project", "account"])
def test_nothing_is_left_of_a_purged_project_or_an_erased_account(talk: Talk, how: str) -> None:
    talk.said("In README.md replace 'Twelve' with 'Twenty'")
    talk.said(ASK)
    if how == "project":
        forget_projects([talk.project_id])
    else:
        account_erasing.send(talk.person.user, now=now() + timedelta(days=14))
    db.session.commit()
    for table in TABLES:
        assert db.session.scalars(select(table)).all() == [], table
