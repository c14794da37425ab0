"""Settings of a conversation: its title, workspace, level, model and budget; and emptying it."""

from collections.abc import Mapping

from flask import current_app
from flask.typing import ResponseReturnValue

from models.conversations import FoundConversation, change_conversation, clear_conversation
from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.projects.project_listing import main_first
from models.projects.workspaces.workspace_editing import workspaces_of
from models.threads.turn_resuming import resume_paused
from views.conversations.pages.conversation_blueprint import (
    conversation_form,
    conversation_page,
    viewed_conversation,
)
from views.conversations.pages.conversation_page import conversation_href
from views.conversations.pages.conversation_words import engine_words, level_choices
from views.gateway.api.model_calls import gateway
from views.projects.pages.project_blueprint import entered, viewer
from views.threads.pages.composer import MAX_SUGGESTED
from views.threads.pages.thread_forms import credits_of
from views.turns.api import turn_engine
from views.web.htmx import render, see_other, toast

FIELDS = ("title", "workspace", "level", "model", "budget")


@conversation_page("/<conversation_id>/settings")
def conversation_settings(project_id: str, conversation_id: str) -> ResponseReturnValue:
    """The settings of a conversation. Raises NotFound, Forbidden."""
    found = viewed_conversation(project_id, conversation_id, "edit_projects")
    row, budget = found.conversation, found.thread.budget
    values = {
        "title": row.title or "",
        "workspace": row.workspace_id,
        "level": row.level,
        "model": row.model or "",
        "budget": "" if budget is None else str(budget),
    }
    return _page(found, values, {})


@conversation_form("/<conversation_id>/settings", "60/minute")
def save_settings(project_id: str, conversation_id: str) -> ResponseReturnValue:
    """Save the settings. Turns that a budget paused go on if it was raised. 422 with what was entered. Raises NotFound, Forbidden."""
    found = viewed_conversation(project_id, conversation_id, "edit_projects")
    values = {name: entered(name).strip() for name in FIELDS}
    try:
        changed = change_conversation(
            viewer(),
            found.conversation.id,
            title=values["title"],
            workspace_id=values["workspace"] or None,
            model=values["model"] if found.conversation.engine != "store" else None,
            level=values["level"] or None,
            budget=credits_of("budget"),
        )
    except DomainError as error:
        if error.status >= 500 and error.status != 501:
            raise
        db.session.rollback()
        again = viewed_conversation(project_id, conversation_id, "edit_projects")
        return _page(again, values, _problems(error))
    db.session.commit()
    resumed = resume_paused(turn_engine().owner, thread_id=changed.thread.id)
    db.session.commit()
    for turn_id in resumed:
        turn_engine().run(turn_id)
    toast("The settings are saved.")
    return see_other(conversation_href(changed))


@conversation_page("/<conversation_id>/emptying")
def ask_emptying(project_id: str, conversation_id: str) -> ResponseReturnValue:
    """Ask whether to empty a conversation. Raises NotFound, Forbidden."""
    found = viewed_conversation(project_id, conversation_id, "edit_projects")
    return render(
        "conversations/emptying.html",
        partial="conversations/_emptying.html",
        project=found.project,
        conversation=found.conversation,
    )


@conversation_form("/<conversation_id>/emptying", "60/minute")
def empty_conversation(project_id: str, conversation_id: str) -> ResponseReturnValue:
    """Empty the messages of a conversation; its timeline stays. Raises NotFound, Forbidden."""
    found = viewed_conversation(project_id, conversation_id, "edit_projects")
    href = conversation_href(found)
    try:
        clear_conversation(viewer(), found.conversation.id)
    except DomainError as error:
        if error.status != 409:
            raise
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(href)
    db.session.commit()
    toast("The conversation is empty. Its timeline stays.")
    return see_other(href)


def _problems(error: DomainError) -> dict[str, str]:
    fields = dict(error.fields) if isinstance(error, Invalid) and error.fields else {}
    if fields and set(fields) <= set(FIELDS):
        return fields
    return {"level" if error.code == "level_unavailable" else "": error.message}


def _page(
    found: FoundConversation, values: Mapping[str, str], errors: Mapping[str, str]
) -> ResponseReturnValue:
    rows = main_first(found.project, workspaces_of(found.project.id))
    names = [each.requested for each in gateway(current_app).routes.models()]
    return render(
        "conversations/settings.html",
        status=422 if errors else 200,
        project=found.project,
        conversation=found.conversation,
        thread=found.thread,
        engine=engine_words(found.conversation),
        workspaces=[(each.id, each.name) for each in rows],
        levels=level_choices(found.project.account_id),
        models=names[:MAX_SUGGESTED],
        values=values,
        errors=errors,
    )
