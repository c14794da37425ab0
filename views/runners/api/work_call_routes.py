"""`/v1/runners/work/{id}/models`: the model doors for programs of a work, opened by the token that came with its lease, and by nothing else."""

from typing import Any

from flask import Response, request
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.gateway.stream import AnswerStream
from models.runners.turn_calls import MAX_BODY, CallAnswer, TurnCalls
from models.runners.work_calls import calls_of_work
from views.gateway.api.model_calls import stream_response
from views.projects.api.projects_api_blueprint import DOOR
from views.runners.api.runners_api_blueprint import CALLS, WORK_ID, bp
from views.web.guards import caller_address, limiter
from views.web.operation import Answers, Operation, header, path

TOKEN = "X-Stoa-Work"  # noqa: S105  (the name of a header)
FORWARDED = (
    header(TOKEN, "The `model_token` that came with the lease"),
    path("door", "The path of a model door, such as `v1/chat/completions`"),
)
REFUSED: Answers = {
    401: "The token is not that of this work",
    403: "The work has ended, or is to end (`WORK_OVER`)",
    400: ("The body cannot be read, or is none of the door", dict[str, Any]),
    404: ("No model door, or no such model", dict[str, Any]),
    "default": (
        "The error of the door, in its own format: 402 if the turn's budget or credits are used up",
        dict[str, Any],
    ),
}


@bp.get("/work/<work_id>/models/<path:door>")
@limiter.limit(CALLS, key_func=caller_address)
@Operation(
    tag="Runners",
    parameters=[WORK_ID, *FORWARDED],
    answers={200: ("As `/v1/models` answers", dict[str, Any]), **REFUSED},
    door=DOOR,
)
def work_models(work_id: str, door: str) -> ResponseReturnValue:
    """List the models that the turn of a work may use."""
    return _response(_calls(work_id).get(f"/{door}"))


@bp.post("/work/<work_id>/models/<path:door>")
@limiter.limit(CALLS, key_func=caller_address)
@Operation(
    tag="Runners",
    parameters=[WORK_ID, *FORWARDED],
    body=dict[str, Any],
    max_bytes=MAX_BODY,
    anonymous_bytes=MAX_BODY,
    answers={200: ("As the door answers, or its stream", dict[str, Any]), **REFUSED},
    door=DOOR,
)
def make_work_call(work_id: str, door: str) -> ResponseReturnValue:
    """Make a model call in the name of a work's turn.

    Account, run, budget and models are the turn's, whatever the request says. A call that runs when the work or its turn ends, ends too.
    """
    calls = _calls(work_id)
    headers = {name.lower(): value for name, value in request.headers.items()}
    return _response(calls.post(f"/{door}", request.get_data(), headers))


def _calls(work_id: str) -> TurnCalls:
    calls = calls_of_work(work_id, request.headers.get(TOKEN, ""))
    db.session.commit()  # no connection is held during the call
    return calls


def _response(answer: CallAnswer) -> Response:
    if isinstance(answer.body, AnswerStream):
        response: Response = stream_response(answer.body, answer.content_type)  # type: ignore[assignment]
    else:
        response = Response(answer.body, answer.status, content_type=answer.content_type)
    response.headers.update(answer.headers)
    return response
