"""`/v1/projects/{id}/atlas/description`: what a model says about a part of a project, with the lines that say it."""

import time
from typing import Annotated

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import scopes
from models.atlas.atlas_correction import held_corrections
from models.atlas.atlas_words import AtlasWords, WordsAsk, begin_words, changed_since, words_of
from models.atlas.atlas_words_subject import WordsSubject, subject_of
from models.atlas.symbol_uses import MAX_SYMBOL
from models.atlas.words_writing import write_words
from models.core.db import db
from models.core.errors import Conflict, Invalid
from models.core.jobs import transaction
from models.insights.model_words import ModelFailed
from models.projects import Project
from models.projects.project_access import own_project
from views.atlas.api.atlas_api_blueprint import CONCEPT, NOT_THERE, PROJECT, READS, TAG, bp
from views.atlas.api.words_bodies import DescriptionAnswer, description_json
from views.insights.api.insights_api_blueprint import GENERATIONS, MODEL, NO_MODEL, RULES, asked_model
from views.projects.api.projects_api_blueprint import DOOR, WRONG, project_caller
from views.web.body import Body, Missing, parse, read_json
from views.web.guards import api_key, key_caller, limiter
from views.web.operation import Answers, Operation, query

SYMBOL = query("symbol", "A definition of the file `concept_id`, such as `Basket.add`")
WAIT, PAUSE = 60.0, 0.3
"""How long a request waits for the answer to that of somebody else, and between two looks, in seconds."""
ASKED: Answers = {
    **NO_MODEL,
    402: "Not enough credits for the call of the model",
    404: "You have no such project, its map has no such concept or symbol, or no provider serves the model (`MODEL_NOT_FOUND`)",
    409: "Somebody else's request for the same description is taking too long (`DESCRIPTION_IN_PROGRESS`). Read it later",
}


class DescriptionRequest(Body):
    concept_id: Annotated[str, Field(max_length=2_000)] | None = Field(
        None, description="A concept of the map; by default the whole project"
    )
    symbol: Annotated[str, Field(max_length=MAX_SYMBOL)] | None = Field(
        None, description="A definition of the file `concept_id`"
    )
    refresh: Missing[bool] = Field(
        False,
        description="Ask also if words of the same model are there, and none of the files that they cite changed",
    )


class DescriptionInProgress(Conflict):
    """Somebody else asked for the same, and the model has not answered yet."""

    code = "description_in_progress"

    def __init__(self) -> None:
        super().__init__(
            "A model is writing this description for somebody else, and takes long. Read it in a minute."
        )


@bp.get("/projects/<project_id>/atlas/description")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[*PROJECT, CONCEPT, SYMBOL],
    answers={200: ("The description", DescriptionAnswer), **NOT_THERE, 422: "A parameter is wrong"},
    door=DOOR,
)
def read_description(project_id: str) -> Response:
    """Return what was said about a project, a part of its map or a symbol, and which files changed since. Asks no model."""
    project = own_project(project_caller(), project_id)
    subject = subject_of(project, request.args.get("concept_id"), request.args.get("symbol"))
    return _answer(project, subject, words_of(project.id, subject.key))


@bp.post("/projects/<project_id>/atlas/description")
@limiter.limit(GENERATIONS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[*PROJECT, MODEL],
    body=DescriptionRequest,
    answers={200: ("The description", DescriptionAnswer), **ASKED, **WRONG},
    door=DOOR,
)
def describe(project_id: str) -> Response:
    """Let a model describe a project, a part of its map or a symbol, by a call that your key or the organisation pays.

    Each sentence must cite lines of files that the model was shown. Those whose lines or symbols do not exist are thrown away; `cut` says
    how many. Words of the same model whose files have not changed are returned without a call. Who asks while a model writes the same
    waits for that answer, and pays nothing. The body may be left out.
    """
    caller = project_caller()
    project = own_project(caller, project_id, "edit_projects")
    model = asked_model()
    if model is None or model == RULES:
        raise Invalid("Only a model writes descriptions. Name one of GET /v1/models in '?model='.")
    body = parse(DescriptionRequest, read_json() if request.content_length else {})
    subject = subject_of(project, body.concept_id, body.symbol)
    run_id = request.headers.get("x-stoa-run-id") or None
    found = begin_words(project, subject, model, caller.user_id, refresh=bool(body.refresh), run_id=run_id)
    org_id = project.org_id
    if isinstance(found, WordsAsk):
        db.session.commit()
        write_words(transaction, found, api_key() or "", org_id)
    elif found.is_writing:
        _wait_for(found)
    db.session.expire_all()  # much may have happened meanwhile
    project = own_project(caller, project_id)
    subject = subject_of(project, body.concept_id, body.symbol)
    return _answer(project, subject, words_of(project.id, subject.key))


def _answer(project: Project, subject: WordsSubject, words: AtlasWords | None) -> Response:
    correction = held_corrections(project.id).fields.get((subject.key, "description"))
    changed = changed_since(project, words) if words else []
    return jsonify(description=description_json(project.id, subject, words, changed, correction))


def _wait_for(words: AtlasWords) -> None:
    """Wait for the end of somebody else's request. Raises ModelFailed if it had no answer, DescriptionInProgress."""
    key, asked, until = (words.project_id, words.subject), words.writing_id, time.monotonic() + WAIT
    while True:
        db.session.rollback()  # holds no connection while it waits
        time.sleep(PAUSE)
        now = words_of(*key)
        if now is None or now.writing_id != asked:
            break
        if not now.is_writing or time.monotonic() > until:
            raise DescriptionInProgress
    if now is not None and now.problem:
        raise ModelFailed(now.problem)
