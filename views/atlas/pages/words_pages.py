"""The description of a project, a part of its map or a symbol: what was said, and the form that asks a model."""

import threading
from typing import cast

from flask import Flask, current_app
from flask.typing import ResponseReturnValue

from models.atlas.atlas_words import WordsAsk, begin_words
from models.atlas.atlas_words_subject import WordsSubject, subject_of
from models.atlas.words_writing import write_words_quietly
from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.core.jobs import transaction
from models.projects import Project
from views.atlas.pages.atlas_blueprint import concept_href, knowledge_form, knowledge_page, line_href
from views.atlas.pages.words_panel import words_panel
from views.gateway.api.model_calls import gateway
from views.projects.pages.project_blueprint import asked, entered, viewed_project, viewer
from views.web.guards import cookie_token
from views.web.htmx import render, see_other, wants_fragment
from views.web.org_guards import check_spending

MAX_MODEL = 200


@knowledge_page("/knowledge/words")
def words(project_id: str) -> ResponseReturnValue:
    """The description. Query: `concept`, and `symbol` of it; the whole project by default. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    return _page(project, subject_of(project, asked("concept"), asked("symbol")))


@knowledge_form("/knowledge/words", "60/minute;1000/day")
def describe_part(project_id: str) -> ResponseReturnValue:
    """Let a model describe it, while the page says that it is on its way; 422 with the reason if it cannot begin. Who asks while it is
    written sees that, and pays nothing. Raises NotFound, Forbidden, FilesUnavailable (503)."""
    project = viewed_project(project_id, "edit_projects")
    check_spending()
    subject = subject_of(project, entered("concept"), entered("symbol"))
    model = entered("model").strip()
    try:
        _check_model(model)
        found = begin_words(project, subject, model, viewer().user_id, refresh=True)
    except DomainError as error:
        if error.status >= 500:
            raise
        db.session.rollback()
        project = viewed_project(project_id, "edit_projects")
        return _page(
            project, subject_of(project, entered("concept"), entered("symbol")), model, error.message
        )
    org_id = project.org_id
    db.session.commit()
    if isinstance(found, WordsAsk):
        _write_meanwhile(found, cookie_token() or "", org_id)
    if wants_fragment():
        project = viewed_project(project_id)
        return _page(project, subject_of(project, entered("concept"), entered("symbol")))
    return see_other(words_panel(project, subject).href)


def _page(project: Project, subject: WordsSubject, model: str = "", error: str = "") -> ResponseReturnValue:
    panel = words_panel(project, subject, model, error)
    return render(
        "atlas/words.html",
        partial="atlas/_words.html",
        status=422 if error else 200,
        project=project,
        panel=panel,
        definition=subject.definition,
        concept_href=lambda id: concept_href(project, id),
        line_href=lambda path, line: line_href(project, path, line),
    )


def _check_model(model: str) -> None:
    """Raise Invalid, or NoRoute for a model that no provider serves."""
    if not 0 < len(model) <= MAX_MODEL:
        raise Invalid("Choose a model.")
    gateway(current_app).routes.find(model)


def _write_meanwhile(ask: WordsAsk, key: str, org_id: str | None) -> None:
    """Wait for the model in a thread of its own: the page is shown at once, and leaving it stops nothing."""
    app = cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]

    def write() -> None:
        with app.app_context():
            write_words_quietly(transaction, ask, key, org_id)

    threading.Thread(target=write, name="stoa-atlas-words", daemon=True).start()
