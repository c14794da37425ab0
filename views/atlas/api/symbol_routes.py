"""`/v1/projects/{id}/atlas/symbols`, `/dependents`, `/outline` and `/export`: what the map answers without a model."""

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from models.accounts import scopes
from models.atlas import dependents_of, outline_of, uses_of
from models.atlas.atlas_export import LEAST, MOST, USUAL, atlas_text
from models.atlas.diagrams import concept_of
from models.atlas.symbol_uses import MAX_SYMBOL
from models.core.errors import Invalid
from models.projects.project_access import own_project
from views.atlas.api.atlas_api_blueprint import CONCEPT, NOT_THERE, PROJECT, READS, TAG, bp
from views.atlas.api.atlas_bodies import (
    DependentList,
    OutlineAnswer,
    SymbolAnswer,
    dependent_json,
    place_json,
    symbol_json,
)
from views.projects.api.projects_api_blueprint import DOOR, project_caller
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, query

WRONG_QUERY = "A parameter is missing or wrong (`VALIDATION_ERROR`)"


@bp.get("/projects/<project_id>/atlas/symbols")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[*PROJECT, query("name", "A function, class, method (`Class.method`), type or constant")],
    answers={200: ("Where it is defined and used", SymbolAnswer), **NOT_THERE, 422: WRONG_QUERY},
    door=DOOR,
)
def find_symbol(project_id: str) -> Response:
    """Say where a symbol is defined, and who uses it, with lines."""
    project = own_project(project_caller(), project_id)
    name = request.args.get("name", "").replace("\0", "").strip()
    if not 0 < len(name) <= MAX_SYMBOL:
        raise Invalid(f"'name' must be the name of a symbol, with at most {MAX_SYMBOL} characters.")
    return jsonify(symbol_json(uses_of(project, name)))


@bp.get("/projects/<project_id>/atlas/dependents")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[*PROJECT, CONCEPT],
    answers={200: ("What depends on it", DependentList), **NOT_THERE, 422: WRONG_QUERY},
    door=DOOR,
)
def list_dependents(project_id: str) -> Response:
    """List what a change of a file or module may break: all that depends on it, directly or through others, nearest first."""
    project = own_project(project_caller(), project_id)
    concept = concept_of(project.id, _concept_id())
    return jsonify(dependents=[dependent_json(each) for each in dependents_of(project.id, concept.id)])


@bp.get("/projects/<project_id>/atlas/outline")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[*PROJECT, CONCEPT],
    answers={200: ("What it defines", OutlineAnswer), **NOT_THERE, 422: WRONG_QUERY},
    door=DOOR,
)
def read_outline(project_id: str) -> Response:
    """List what a file defines, in its order."""
    project = own_project(project_caller(), project_id)
    concept = concept_of(project.id, _concept_id())
    return jsonify(definitions=[place_json(each) for each in outline_of(project, concept)])


@bp.get("/projects/<project_id>/atlas/export")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[
        *PROJECT,
        query("tokens", f"The longest text, from {LEAST} to {MOST:,} tokens; {USUAL:,} by default"),
    ],
    answers={200: ("The map as text (llms.txt)", str), **NOT_THERE, 422: WRONG_QUERY},
    door=DOOR,
)
def export_map(project_id: str) -> ResponseReturnValue:
    """Write the map as text for the context of an agent: what matters most first, within a budget of tokens."""
    project = own_project(project_caller(), project_id)
    text = request.args.get("tokens", str(USUAL))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and LEAST <= int(text) <= MOST):
        raise Invalid(f"'tokens' must be a number from {LEAST} to {MOST}.")
    return Response(atlas_text(project, int(text)), mimetype="text/plain")


def _concept_id() -> str:
    """The concept that is asked for. Raises Invalid."""
    id = request.args.get("concept_id", "")
    if not id:
        raise Invalid("'concept_id' must be the id of a concept, such as 'code:src/app.py'.")
    return id
