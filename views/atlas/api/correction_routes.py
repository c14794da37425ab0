"""`/v1/projects/{id}/atlas/corrections`: what people say otherwise about the map, which holds over files and models."""

from typing import Annotated

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import scopes
from models.atlas.atlas_correcting import correct, corrections_in, deny_relation, undo_correction
from models.atlas.atlas_correction import CORRECTABLE
from models.atlas.atlas_words_subject import subject_of
from models.atlas.symbol_uses import MAX_SYMBOL
from models.core.db import db
from models.core.errors import Invalid
from models.projects.project_access import own_project
from views.atlas.api.atlas_api_blueprint import CONCEPT, NOT_THERE, PROJECT, READS, TAG, bp
from views.atlas.api.words_bodies import CorrectionAnswer, CorrectionList, correction_json
from views.projects.api.projects_api_blueprint import CHANGES, DOOR, WRONG, project_caller
from views.web.body import Body, Missing, read
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, path

CORRECTION_ID = path("correctionId", "The id of the correction")
Words = Annotated[str, Field(max_length=10_000)] | None


class CorrectionBody(Body):
    concept_id: Annotated[str, Field(max_length=2_000)] | None = Field(
        None, description="A concept of the map; by default the whole project"
    )
    symbol: Annotated[str, Field(max_length=MAX_SYMBOL)] | None = Field(
        None, description="A definition of the file `concept_id`"
    )
    name: Words = Field(None, description="At most 120 characters; null: what the map says itself")
    description: Words = Field(None, description="At most 2,000 characters; null: what the map says itself")
    type: Words = Field(None, description="At most 40 characters; null: what the map says itself")
    not_related_to: Missing[Annotated[str, Field(max_length=2_000)]] = Field(
        None, description="A concept with which it has nothing to do, or `narrative:decision:…`"
    )


@bp.get("/projects/<project_id>/atlas/corrections")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[*PROJECT, CONCEPT],
    answers={200: ("The newest 200", CorrectionList), **NOT_THERE},
    door=DOOR,
)
def list_corrections(project_id: str) -> Response:
    """List who corrected what, newest first: all of a project, or what is about one concept."""
    project = own_project(project_caller(), project_id)
    rows = corrections_in(project, request.args.get("concept_id", "").replace("\0", "") or None)
    return jsonify(corrections=[correction_json(row) for row in rows])


@bp.post("/projects/<project_id>/atlas/corrections")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=PROJECT,
    body=CorrectionBody,
    answers={200: ("What is new", CorrectionList), **NOT_THERE, **WRONG},
    door=DOOR,
)
def add_correction(project_id: str) -> Response:
    """Correct the name, description or type of a part of the map, or say that it is not related to another one.

    It holds over what files and models say, and survives each new index. What is so already changes nothing. Of the whole project and of
    symbols only the description can be corrected.
    """
    caller = project_caller()
    project = own_project(caller, project_id, "edit_projects")
    body = read(CorrectionBody)
    changes = {name: getattr(body, name) for name in CORRECTABLE if name in body.model_fields_set}
    if not changes and not body.not_related_to:
        raise Invalid("Say what to correct: 'name', 'description', 'type' or 'not_related_to'.")
    subject = subject_of(project, body.concept_id, body.symbol)
    made = correct(caller, project.id, subject, changes)
    if body.not_related_to:
        made += filter(None, [deny_relation(caller, project.id, subject, body.not_related_to)])
    db.session.commit()
    return jsonify(corrections=[correction_json(row) for row in made])


@bp.post("/projects/<project_id>/atlas/corrections/<correction_id>/undo")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[*PROJECT, CORRECTION_ID],
    answers={
        200: ("What holds again, as a correction of its own", CorrectionAnswer),
        **NOT_THERE,
        404: "You have no such project, or it has no such correction",
        409: "It was corrected again since (`CORRECTION_REPLACED`): undo the newest first",
    },
    door=DOOR,
)
def undo(project_id: str, correction_id: str) -> Response:
    """Undo a correction that holds, so that what was before holds again."""
    caller = project_caller()
    row = undo_correction(caller, own_project(caller, project_id, "edit_projects").id, correction_id)
    db.session.commit()
    return jsonify(correction=correction_json(row))
