"""The list of projects, and the steps that make a new one: its name, what it is for, and the brief."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MultiDict

from models.core.db import db
from models.core.errors import DomainError
from models.projects.project import INTENTS
from models.projects.project_access import check_project_role
from models.projects.project_editing import create_project, plain_text, set_brief
from models.projects.project_listing import MAX_SEARCH, ListedProject, projects_page
from views.projects.pages.brief_shapes import brief_of, fields_of
from views.projects.pages.project_blueprint import (
    asked,
    problems_of,
    project_form,
    project_page,
    viewer,
    viewer_may,
)
from views.web.htmx import render, see_other, toast
from views.web.keyset import cursor, cursor_text
from views.web.org_guards import viewed_account

PAGE = 30
STEPS = ("Name", "Purpose", "Brief")
NAME, PURPOSE, BRIEF = 1, 2, 3
PURPOSES: Sequence[tuple[str, str, str]] = (
    ("startup", "Startup", "A product that people should pay for"),
    ("personal_tool", "Personal tool", "Something for yourself"),
    ("learning", "Learning", "To understand how something works"),
    ("fun", "Fun", "For the pleasure of it"),
    ("portfolio", "Portfolio", "To show what you can do"),
    ("creative", "Creative", "Art, music, games or words"),
    ("exploration", "Exploration", "To find out whether an idea holds"),
    ("open_source", "Open source", "For everybody, with others"),
)
"""The intents with the names and notes that people choose by."""
BRIEF_FIELDS = ("problem", "audience", "features")
MAX_BRIEF_TEXT = 4_000


@dataclass(frozen=True)
class ListedProjects:
    """A page of projects. `words` are searched, `deleted`: the deleted ones alone."""

    rows: Sequence[ListedProject]
    words: str
    deleted: bool
    next_href: str | None
    after: bool


@dataclass(frozen=True)
class ProjectDraft:
    """What was entered so far in the steps; `brief_shapes` says what the texts mean for which intent."""

    name: str = ""
    intent: str = ""
    problem: str = ""
    audience: str = ""
    features: str = ""

    @classmethod
    def read(cls, values: MultiDict[str, str]) -> "ProjectDraft":
        """The draft of a form or query."""
        texts = {
            name: values.get(name, "").replace("\0", "").replace("\r\n", "\n").strip()
            for name in cls.__dataclass_fields__
        }
        draft = cls(**texts)
        return draft if draft.intent in INTENTS else replace(draft, intent="")

    def address(self, step: int) -> str:
        """URL of an earlier step, with the values of the first two."""
        query: dict[str, Any] = {"name": self.name or None, "intent": self.intent or None}
        return url_for("projects.new_project", step=step, **query)

    @property
    def texts(self) -> dict[str, str]:
        """The fields of the brief."""
        return {name: getattr(self, name) for name in BRIEF_FIELDS}


@project_page("")
def project_list() -> ResponseReturnValue:
    """List the projects of the account, the last changed first. Query: `q`, `deleted`, `before`. With htmx: the list, or after a cursor the
    next rows. Raises Forbidden."""
    found = _listed()
    partial = "projects/_more_rows.html" if found.after else "projects/_list.html"
    return render(
        "projects/projects.html",
        partial=partial,
        listing=found,
        purposes={key: name for key, name, _ in PURPOSES},
        may_edit=viewer_may("edit_projects"),
        may_manage=viewer_may("manage_projects"),
    )


@project_page("/new")
def new_project() -> ResponseReturnValue:
    """Show the step `step` of a new project, or the first one with errors. Query: what was entered. Raises Forbidden."""
    check_project_role(viewer(), viewed_account().id, "edit_projects")
    draft = ProjectDraft.read(request.args)
    step = {"2": PURPOSE, "3": BRIEF}.get(asked("step"), NAME)
    errors = _name_errors(draft) if step > NAME else {}
    return _form(draft, NAME if errors else step, errors)


@project_form("", "30/minute;500/day")
def add_project() -> ResponseReturnValue:
    """Make the project, with its purpose and brief if one was chosen; 422 with what was entered. Raises Forbidden."""
    check_project_role(viewer(), viewed_account().id, "edit_projects")
    draft = ProjectDraft.read(request.form)
    if errors := _name_errors(draft) | brief_errors(draft):
        return _form(draft, BRIEF, errors)
    try:
        made = create_project(viewer(), viewed_account(), draft.name)
        if draft.intent:
            save_brief(made.id, draft)
    except DomainError as error:
        db.session.rollback()
        return _form(draft, BRIEF, problems_of(error, "name"), error.status)
    db.session.commit()
    toast("The project is there. Push its first snapshot.")
    return see_other(url_for("projects.overview", project_id=made.id))


def save_brief(project_id: str, draft: ProjectDraft, former: Mapping[str, Any] | None = None) -> None:
    """Store the purpose and the brief of a project. Raises Invalid (422), NotFound, Forbidden."""
    brief = brief_of(draft.intent, draft.texts, former)
    size = len(json.dumps(brief, ensure_ascii=False).encode(errors="replace"))
    set_brief(viewer(), project_id, draft.intent, brief, size)


def brief_errors(draft: ProjectDraft) -> dict[str, str]:
    """What is wrong with the texts of a brief, by field. It may stay empty; one that was begun needs what its purpose asks for."""
    texts = draft.texts
    if not any(texts.values()):
        return {}
    if not draft.intent:
        return {"intent": "Choose what the project is for."}
    found = {}
    for each in fields_of(draft.intent):
        if len(texts[each.name]) > MAX_BRIEF_TEXT:
            found[each.name] = f"Write at most {MAX_BRIEF_TEXT} characters."
        elif each.needed and not texts[each.name]:
            found[each.name] = "Write something, or leave the whole brief empty."
    return found


def _name_errors(draft: ProjectDraft) -> dict[str, str]:
    if not draft.name:
        return {"name": "Enter a name."}
    try:
        plain_text(draft.name)
    except DomainError as error:
        return {"name": error.message}
    return {}


def _form(
    draft: ProjectDraft, step: int, errors: Mapping[str, str], status: int | None = None
) -> ResponseReturnValue:
    return render(
        "projects/new.html",
        status=status or (422 if errors else 200),
        draft=draft,
        step=step,
        steps=STEPS,
        purposes=PURPOSES,
        errors=errors,
        brief_fields=fields_of(draft.intent),
    )


def _listed() -> ListedProjects:
    words = asked("q").strip()[:MAX_SEARCH]
    deleted, before = asked("deleted") == "1", cursor()
    rows = projects_page(
        viewer(), viewed_account(), PAGE + 1, words=words, only_deleted=deleted, before=before
    )
    next_href = None
    if len(rows) > PAGE:
        last = rows[PAGE - 1].project
        query: dict[str, Any] = {"q": words or None, "deleted": "1" if deleted else None}
        time = (last.deleted_at if deleted else None) or last.updated_at
        next_href = url_for("projects.project_list", before=cursor_text(time, last.id), **query)
    return ListedProjects(rows[:PAGE], words, deleted, next_href, before is not None)
