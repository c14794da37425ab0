"""The conversations of a project, and beginning a new one."""

from collections.abc import Mapping

from flask import current_app, request, url_for
from flask.typing import ResponseReturnValue

from models.conversations import FoundConversation, conversations_page, say, start_conversation
from models.conversations.conversation_reading import with_states
from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.gateway.model_suggestion import suggested_model
from models.projects import Project
from models.projects.project_listing import main_first
from models.projects.workspaces.workspace_editing import workspaces_of
from models.turns import Turn
from views.conversations.pages.conversation_blueprint import (
    conversation_form,
    conversation_page,
)
from views.conversations.pages.conversation_words import (
    STATE_BADGES,
    Choice,
    command_choices,
    engine_choices,
    engine_words,
    level_choices,
)
from views.gateway.api.model_calls import gateway
from views.projects.pages.project_blueprint import (
    asked,
    entered,
    viewed_project,
    viewer,
    viewer_may,
    web_mover,
)
from views.threads.pages.composer import MAX_SUGGESTED
from views.threads.pages.thread_forms import credits_of
from views.turns.api import turn_engine
from views.web.guards import session_key
from views.web.htmx import render, see_other
from views.web.keyset import cursor, cursor_text
from views.web.org_guards import check_spending, may_spend, viewed_account

PAGE = 30
FIELDS = ("workspace", "engine", "command", "agent", "level", "model", "budget", "content")
KNOWN = {"prompt": "content"}
"""Fields of the form by the domain's names for them, where they differ."""


@conversation_page()
def conversation_list(project_id: str) -> ResponseReturnValue:
    """List the conversations of a project, the last changed first. Query: `before`. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    before = cursor()
    rows = conversations_page(project, PAGE + 1, before)
    shown = rows[:PAGE]
    next_href = None
    if len(rows) > PAGE:
        last = shown[-1].conversation
        at = cursor_text(last.updated_at, last.id)
        next_href = url_for("conversations.conversation_list", project_id=project.id, before=at)
    return render(
        "conversations/conversations.html",
        partial="conversations/_more_rows.html" if before else None,
        project=project,
        rows=with_states(shown),
        engine_words=engine_words,
        badges=STATE_BADGES,
        next_href=next_href,
        may_begin=viewer_may("edit_projects") and may_spend(),
    )


@conversation_page("/new")
def new_conversation(project_id: str) -> ResponseReturnValue:
    """The form of a new conversation. Query: `workspace`, and other fields to begin with. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    return _form(project, {name: asked(name) for name in FIELDS}, {})


@conversation_form("", "30/minute;500/day")
def begin_conversation(project_id: str) -> ResponseReturnValue:
    """Begin a conversation with its first prompt. 422 with what was entered. Raises NotFound, Forbidden."""
    check_spending()
    project = viewed_project(project_id, "edit_projects")
    values = {name: entered(name).strip() for name in FIELDS}
    try:
        found, turn = _begun(project, values)
        db.session.commit()
    except DomainError as error:
        if error.status >= 500 and error.status != 501:
            raise
        db.session.rollback()
        return _form(viewed_project(project_id, "edit_projects"), values, _problems(error))
    if turn.state == "running":
        turn_engine().run(turn.id)
    return see_other(
        url_for("conversations.conversation", project_id=project_id, conversation_id=found.conversation.id)
    )


def _begun(project: Project, values: Mapping[str, str]) -> tuple[FoundConversation, Turn]:
    """The conversation and its first turn. Raises DomainError."""
    if values["workspace"] not in {each.id for each in workspaces_of(project.id)}:
        raise Invalid("Choose a workspace.", fields={"workspace": "Choose a workspace."})
    if not values["content"]:
        raise Invalid("Say what to do.", fields={"content": "Say what to do."})
    agent = {"acp": values["command"], "store": values["agent"]}.get(values["engine"])
    if values["engine"] == "store" and not agent:
        problem = "Name an agent, such as publisher/agent."
        raise Invalid(problem, fields={"agent": problem})
    found = start_conversation(
        viewer(),
        values["workspace"],
        engine=values["engine"],
        level=values["level"],
        agent=agent,
        model=values["model"] if values["engine"] != "store" else None,
        budget=credits_of("budget"),
        mover=web_mover(),
    )
    turn = say(viewer(), found, values["content"], key=session_key(), owner=turn_engine().owner)
    return found, turn


def _problems(error: DomainError) -> dict[str, str]:
    """The messages by field; one that names none stands above the form."""
    fields = error.fields if isinstance(error, Invalid) else None
    named = {KNOWN.get(name, name): text for name, text in (fields or {}).items()}
    if named and set(named) <= set(FIELDS):
        return named
    if error.code == "level_unavailable":
        return {"level": error.message}
    return {"": error.message}


def _form(project: Project, values: Mapping[str, str], errors: Mapping[str, str]) -> ResponseReturnValue:
    names = [each.requested for each in gateway(current_app).routes.models()]
    workspaces = main_first(project, workspaces_of(project.id))
    levels, engines = level_choices(project.account_id), engine_choices()
    first = {
        "workspace": workspaces[0].id if workspaces else "",
        "engine": "builtin",
        "level": _best(levels),
        "model": "" if request.method == "POST" else suggested_model(names, viewed_account().id),
    }
    return render(
        "conversations/new.html",
        partial="conversations/_new_form.html" if request.method == "POST" else None,
        status=422 if errors else 200,
        project=project,
        workspaces=[(each.id, each.name) for each in workspaces],
        engines=engines,
        levels=levels,
        commands=command_choices(),
        models=names[:MAX_SUGGESTED],
        values={name: values[name] or first.get(name, "") for name in FIELDS},
        errors=errors,
        may_begin=may_spend(),
    )


def _best(levels: list[Choice]) -> str:
    """The level that is chosen at first: the sandbox if it works here."""
    working = [each.key for each in levels if each.available]
    return "process" if "process" in working else (working or ["virtual"])[0]
