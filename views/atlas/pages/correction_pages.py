"""Correcting a part of the map by hand, and the history of its corrections."""

from collections.abc import Mapping

from flask import url_for
from flask.typing import ResponseReturnValue

from models.atlas.atlas_correcting import correct, corrections_in, deny_relation, undo_correction
from models.atlas.atlas_correction import CORRECTABLE, DECISION, AtlasCorrection, held_corrections
from models.atlas.atlas_reading import surroundings
from models.atlas.atlas_words_subject import WordsSubject, subject_of
from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.projects import Project
from models.projects.project_listing import people_of
from views.atlas.pages.atlas_blueprint import concept_href, knowledge_form, knowledge_page
from views.projects.pages.project_blueprint import (
    asked,
    entered,
    problems_of,
    viewed_project,
    viewer,
    viewer_may,
)
from views.web.htmx import render, see_other, toast

FORMS = "120/minute;3000/day"


@knowledge_page("/knowledge/correct")
def correction(project_id: str) -> ResponseReturnValue:
    """The form, and who corrected what. Query: `concept`, and `symbol` of it; the whole project by default. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    return _page(project, subject_of(project, asked("concept"), asked("symbol")))


@knowledge_form("/knowledge/correct", FORMS)
def save_correction(project_id: str) -> ResponseReturnValue:
    """Correct what the form says; an empty field takes its correction back. 422 with what was entered. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    subject = subject_of(project, entered("concept"), entered("symbol"))
    values = {field: entered(field) for field in _fields(subject)}
    try:
        made = correct(viewer(), project.id, subject, values)
    except Invalid as error:
        db.session.rollback()
        project = viewed_project(project_id, "edit_projects")
        subject = subject_of(project, entered("concept"), entered("symbol"))
        return _page(project, subject, values, problems_of(error, "description"))
    db.session.commit()
    toast("Corrected. It stays when the map is made again." if made else "Nothing was changed.")
    return see_other(_href(project_id, subject))


@knowledge_form("/knowledge/unrelated", FORMS)
def deny(project_id: str) -> ResponseReturnValue:
    """Say that two parts are not related. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    subject = subject_of(project, entered("concept"))
    try:
        made = deny_relation(viewer(), project.id, subject, entered("other"))
    except Invalid as error:
        db.session.rollback()
        toast(error.message, "bad")
    else:
        db.session.commit()
        toast("The map does not connect them any more." if made else "Somebody said so already.")
    return see_other(_href(project_id, subject))


@knowledge_form("/knowledge/corrections/<correction_id>/undo", FORMS)
def take_back(project_id: str, correction_id: str) -> ResponseReturnValue:
    """Undo a correction. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    subject = subject_of(project, entered("concept"), entered("symbol"))
    try:
        undo_correction(viewer(), project.id, correction_id)
    except DomainError as error:
        if error.status != 409:
            raise
        db.session.rollback()
        toast(error.message, "bad")
    else:
        db.session.commit()
        toast("Undone.")
    return see_other(_href(project_id, subject))


def _page(
    project: Project,
    subject: WordsSubject,
    values: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
) -> ResponseReturnValue:
    held = held_corrections(project.id)
    own = held.of(subject.key)
    concept = subject.concept if subject.definition is None else None
    says = {field: getattr(concept, field, None) for field in _fields(subject)}
    rows = corrections_in(project, subject.key)
    return render(
        "atlas/correct.html",
        status=422 if errors else 200,
        project=project,
        subject=subject,
        about=(own["name"].value if "name" in own else subject.symbol)
        or (concept.name if concept else project.name),
        back=_part_href(project, subject),
        fields=_fields(subject),
        values=values or {field: row.value or "" for field, row in own.items()},
        says=says,
        errors=errors or {},
        others=_connected(project, subject),
        rows=[(row, _other(row, subject)) for row in rows],
        people=people_of(row.user_id for row in rows),
        lengths=CORRECTABLE,
        may_edit=viewer_may("edit_projects"),
        concept_href=lambda id: concept_href(project, id),
    )


def _fields(subject: WordsSubject) -> tuple[str, ...]:
    """What of a subject can be corrected."""
    is_concept = subject.concept is not None and subject.definition is None
    return ("name", "type", "description") if is_concept else ("description",)


def _connected(project: Project, subject: WordsSubject) -> list[tuple[str, str]]:
    """The parts and decisions that the map connects with a part, except by containing."""
    if subject.concept is None or subject.definition is not None:
        return []
    around = surroundings(subject.concept)
    near = [*around.together, *around.uses, *around.used_by, *around.tests]
    found = {each.concept.id: each.concept.id.removeprefix("code:") for each in near}
    return [*found.items(), *((f"{DECISION}{each.id}", each.decision[:100]) for each in around.decisions)]


def _other(row: AtlasCorrection, subject: WordsSubject) -> str:
    """The other end of a pair."""
    return row.subject if row.other == subject.key else row.other


def _href(project_id: str, subject: WordsSubject) -> str:
    return url_for(
        "atlas.correction", project_id=project_id, concept=subject.concept_id, symbol=subject.symbol
    )


def _part_href(project: Project, subject: WordsSubject) -> str:
    """The page that shows the part."""
    if subject.definition is not None:
        return url_for(
            "atlas.words", project_id=project.id, concept=subject.concept_id, symbol=subject.symbol
        )
    if subject.concept is None:
        return url_for("atlas.knowledge", project_id=project.id)
    return concept_href(project, subject.concept.id)
