"""`POST /api/v1/assistants/import`: assistants and prompts that were exported from OpenAI."""

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.assistants import check_capability
from models.assistants.assistant_import import import_assistants
from models.core.db import db
from views.assistants.api.assistant_caller import DOOR, ERRORS, ORG, assistant_caller
from views.assistants.api.assistant_routes import bp
from views.web.body import read_json
from views.web.guards import key_caller, limiter, settings
from views.web.operation import Operation, ResponseModel


class ImportOutcome(ResponseModel):
    source: str = Field(description="The id, else the name of the original")
    outcome: str = Field(description="imported, exists (by an earlier import) or refused")
    id: str | None = Field(description="The assistant")
    notes: list[str] = Field(description="What did not travel, or changed")


class ImportOutcomes(ResponseModel):
    data: list[ImportOutcome]


@bp.post("/api/v1/assistants/import")
@limiter.limit("10/minute;100/day", key_func=key_caller)
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[ORG],
    body=dict,
    answers={
        200: ("The outcome of each, in order", ImportOutcomes),
        **ERRORS,
        422: "There is nothing to import, or too much",
    },
    door=DOOR,
)
def import_some_assistants() -> ResponseReturnValue:
    """Import exported assistants and prompts of OpenAI.

    The body is an object of `GET /v1/assistants`, a saved prompt (instructions or messages, variables), a list of them, or
    `{"data": […]}`. What cannot travel is named in the notes. Safe to repeat: what was imported before is left alone.
    """
    caller = assistant_caller()
    check_capability(*caller, "edit_assistants")
    results = import_assistants(*caller, read_json(), settings())
    db.session.commit()
    return jsonify(
        data=[
            {"source": each.source, "outcome": each.outcome, "id": each.id, "notes": each.notes}
            for each in results
        ]
    )
