"""`/v1/projects/{id}/atlas…`: the map of a project, its search and its diagrams (contract 3.14)."""

from typing import Annotated, Any

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import scopes
from models.atlas import index_project, search_atlas
from models.atlas.atlas_indexing import request_index
from models.atlas.atlas_reading import whole_map
from models.atlas.atlas_search import MAX_QUERY
from models.atlas.capability_concepts import (
    CAPABILITIES_CLIENT,
    capabilities_of,
    capabilities_request,
    keep_capabilities,
)
from models.atlas.diagrams import diagram_of, diagrams_of, keep_diagram
from models.core.db import db
from models.core.jobs import transaction
from models.insights.model_words import ModelFailed
from models.projects import Project
from models.projects.project_access import own_project
from views.atlas.api.atlas_api_blueprint import CONCEPT, INDEXING, NOT_THERE, PROJECT, READS, TAG, bp
from views.atlas.api.atlas_bodies import (
    DiagramAnswer,
    DiagramList,
    FoundAnswer,
    IndexAnswer,
    MapAnswer,
    concept_json,
    diagram_json,
    edges_json,
    hit_json,
    link_json,
)
from views.insights.api.insights_api_blueprint import asked_model, said
from views.projects.api.projects_api_blueprint import DOOR, WRONG, project_caller
from views.web.body import Body, parse, read, read_json
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, query

MODEL = query(
    "model",
    "A model of `GET /v1/models` that names what the project is able to do, whose call your key pays for. Without one, none is asked",
)


class IndexRequest(Body):
    max_files: Annotated[int, Field(ge=20, le=1_000)] = 200


class MapQuery(Body):
    query: Annotated[str, Field(max_length=MAX_QUERY)]
    limit: Annotated[int, Field(ge=1, le=20)] = 8


class DiagramRequest(Body):
    concept_id: Annotated[str, Field(max_length=2_000)] | None = None
    type: str = "dependency"


@bp.get("/projects/<project_id>/atlas")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=PROJECT,
    answers={200: ("The map", MapAnswer), **NOT_THERE},
    door=DOOR,
)
def read_map(project_id: str) -> Response:
    """Return the map of a project: its concepts, how they relate, and the decisions that name them.

    Empty until the project is indexed, which happens by itself after its main workspace moved.
    """
    found = whole_map(own_project(project_caller(), project_id))
    return jsonify(
        concepts=[concept_json(row, found.index, found.corrections) for row in found.concepts],
        edges=edges_json(found.edges),
        decision_links=[link_json(row) for row in found.links],
        truncated=found.truncated,
        unread=found.index.unread if found.index else 0,
    )


@bp.post("/projects/<project_id>/atlas/index")
@limiter.limit(INDEXING, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[*PROJECT, MODEL],
    body=IndexRequest,
    answers={
        200: ("How much the map holds now", IndexAnswer),
        **NOT_THERE,
        **WRONG,
        402: "Not enough credits for the call of the model. The map is up to date",
        404: "You have no such project, it has no files, or no provider serves the model (`MODEL_NOT_FOUND`)",
        "default": "The call of the model was refused, as on `POST /v1/chat/completions`. The map is up to date",
    },
    door=DOOR,
)
def index_map(project_id: str) -> Response:
    """Bring the map of a project up to the files of its main workspace, or of its newest snapshot.

    Files that the account has had before are not read again. At most `max_files` new ones are read now; a job reads the others, and makes
    the vectors of all. A model that fails changes nothing: `model_error` says why.
    """
    project = own_project(project_caller(), project_id, "edit_projects")
    body = parse(IndexRequest, read_json() if request.content_length else {})
    model = asked_model() if request.args.get("model") else None
    counts = index_project(transaction, project.id, body.max_files)
    if counts.unread or counts.embeddings < counts.chunks:
        request_index(project.id, soon=True)
        db.session.commit()
    facts: dict[str, Any] = counts._asdict()
    error = None
    if model is not None:
        try:
            facts["concepts"] += _name_capabilities(project, model)
        except ModelFailed as failure:
            error = failure.message
    return jsonify(
        {name: facts[name] for name in IndexAnswer.model_fields if name in facts} | {"model_error": error}
    )


@bp.post("/projects/<project_id>/atlas/search")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=PROJECT,
    body=MapQuery,
    answers={200: ("What fits best", FoundAnswer), **NOT_THERE, **WRONG},
    door=DOOR,
)
def search_map(project_id: str) -> Response:
    """Search a project for code, documents and decisions, by words and names of symbols.

    A blank query has no results. Each file is there once, with the lines that fit best.
    """
    project = own_project(project_caller(), project_id)
    body = read(MapQuery)
    return jsonify(results=[hit_json(hit) for hit in search_atlas(project, body.query, body.limit)])


@bp.get("/projects/<project_id>/atlas/diagrams")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[*PROJECT, CONCEPT],
    answers={200: ("The diagrams", DiagramList), **NOT_THERE},
    door=DOOR,
)
def list_diagrams(project_id: str) -> Response:
    """List the diagrams that were made, newest first: all of one concept, or the newest 20."""
    project = own_project(project_caller(), project_id)
    rows = diagrams_of(project, request.args.get("concept_id") or None)
    return jsonify(diagrams=[diagram_json(row) for row in rows])


@bp.post("/projects/<project_id>/atlas/diagrams")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=PROJECT,
    body=DiagramRequest,
    answers={200: ("The diagram", DiagramAnswer), **NOT_THERE, **WRONG},
    door=DOOR,
)
def make_diagram(project_id: str) -> Response:
    """Make a diagram of a project, or of one concept and what is around it, and keep it.

    `dependency`: modules and what they import. `component`: systems with their modules. `flow`: what is called from an entry point.
    `sequence`: the calls of the newest run that changed the project.
    """
    project = own_project(project_caller(), project_id, "edit_projects")
    body = parse(DiagramRequest, read_json() if request.content_length else {})
    row = keep_diagram(project, diagram_of(project, body.type, body.concept_id))
    db.session.commit()
    return jsonify(diagram=diagram_json(row))


def _name_capabilities(project: Project, model: str) -> int:
    """Ask a model what the project is able to do, and keep it; returns by how many concepts the map grew. Ends the transaction. Raises
    CallNotPossible (402 and others), ModelFailed."""
    asked = capabilities_request(project, model)
    if asked is None:
        return 0
    answer = said(asked, CAPABILITIES_CLIENT)
    before = len(capabilities_of(project.id))
    kept = keep_capabilities(project, answer.text, model, answer.request_id)
    db.session.commit()
    return kept - before
