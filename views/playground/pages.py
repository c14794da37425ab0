"""`/playground`: conversations with models. Each turn is a call of the viewer, or of an organisation on its own page."""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, cast

import orjson
from flask import (
    Blueprint,
    Response,
    copy_current_request_context,
    current_app,
    g,
    get_template_attribute,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import DomainError, Invalid, NotFound
from models.gateway import GatewayCall, sse
from models.gateway.call_errors import CallRefused, ProviderError, RelayFailed
from models.gateway.dialects import PLAYGROUND
from models.gateway.dialects.dialect import CallRequest, ErrorContext, IncomingRequest, Reply
from models.gateway.dialects.error_shapes import answer_message
from models.gateway.model_suggestion import suggested_model
from models.gateway.stream import AnswerStream
from models.gateway.streamed_answer import StreamedAnswer
from models.gateway.upstream import UpstreamError
from models.ledger.payers import PayerHint
from models.orgs import require
from models.playground import (
    EFFORTS,
    SIDES,
    AgentPrefill,
    PlaygroundTurn,
    code_of,
    plain_calls,
    prefill_of,
    read_turn,
)
from models.runs.call_access import readable_call
from models.store.catalogue import markdown
from views.gateway.api.model_calls import gateway
from views.web.assets import site
from views.web.guards import caller_account, cookie_token, limiter, settings
from views.web.htmx import render
from views.web.org_guards import account_page, current_membership, signed_in, viewed_account
from views.web.viewer_locale import viewer_locale

bp = Blueprint("playground", __name__)

FAILURES = (CallRefused, ProviderError, UpstreamError, DomainError, RelayFailed)
EVENTS = "text/event-stream"
FIELDS = ("model_a", "model_b", "system", "tools", "temperature", "max_tokens", "effort", "prompt")


@dataclass(frozen=True)
class Refusal:
    """Why a call was not made, or failed, with the page that helps."""

    message: str
    href: str = ""
    text: str = ""


@dataclass
class PlaygroundSide:
    """One conversation on the page: its messages as HTML, and as JSON for the next turn."""

    name: str
    conversation: list[Any] = field(default_factory=list)
    call: GatewayCall | None = None
    refusal: Refusal | None = None

    @property
    def turns(self) -> list[tuple[Mapping[str, Any], str]]:
        """The messages, each with its text as HTML."""
        return [(each, rendered(each)) for each in self.conversation]

    @property
    def carried(self) -> str:
        """The conversation for the hidden field."""
        return json.dumps(self.conversation, ensure_ascii=False) if self.conversation else ""


@bp.get("/playground")
@bp.get("/orgs/<slug>/playground")
@account_page
def playground() -> ResponseReturnValue:
    """Start a conversation. Query: `model`, `compare` (a second model), `agent` (`publisher/agent` of the store, whose model and prompts
    are filled in)."""
    values = {"model_a": request.args.get("model", ""), "model_b": request.args.get("compare", "")}
    agent, errors = None, {}
    if name := request.args.get("agent", "").strip():
        try:
            agent = prefill_of(name)
        except NotFound as error:
            errors["agent"] = error.message
        else:
            values |= {"model_a": values["model_a"] or agent.model, "system": agent.system}
    return _page(values, [PlaygroundSide(each) for each in SIDES], errors=errors, agent=agent)


@bp.post("/playground")
@bp.post("/orgs/<slug>/playground")
@account_page
@limiter.limit("60 per minute", key_func=caller_account)
def send() -> ResponseReturnValue:
    """Send a message: the page with the whole answers, or the events of one side's (`side`) for `Accept: text/event-stream`. Refused
    calls: their status, with the reason. Bad values: 422. Raises Forbidden for roles that do not spend."""
    if "org" in g:
        require(current_membership(), "spend")
    streams = EVENTS in request.headers.get("Accept", "")
    try:
        turn = read_turn(request.form)
    except Invalid as error:
        fields = error.fields or {}
        if streams:
            return {"fields": fields}, 422
        return _page(request.form, _sides_of(request.form), errors=fields, status=422)
    # the form's token is taken, and no transaction stays open during the call
    db.session.commit()
    if streams:
        side = request.form.get("side", "")
        return _stream(turn, side if side in turn.sides else "a")
    sides = [PlaygroundSide(each, list(turn.conversations[each])) for each in SIDES]
    statuses = [_answer(turn, side) for side in sides if side.name in turn.sides]
    values = {**request.form, "prompt": "" if 200 in statuses else turn.prompt}
    return _page(values, sides, turn=turn, status=max(statuses) if 200 not in statuses else 200)


@bp.get("/playground/calls/<request_id>")
@bp.get("/orgs/<slug>/playground/calls/<request_id>")
@account_page
def figures(request_id: str) -> ResponseReturnValue:
    """The figures of one of the viewer's calls, as a fragment: of a stopped answer they come after it. Raises NotFound, also
    until it has ended."""
    call = readable_call(viewed_account(), signed_in().id, request_id).call
    return _part("facts", call, url_for("usage.call", request_id=request_id))


# -- whole answers ---------------------------------------------------------------------------------------------


def _answer(turn: PlaygroundTurn, side: PlaygroundSide) -> int:
    """Make the call of one side, and add its answer. Returns the status."""
    request_id = uuid.uuid4().hex
    try:
        reply = gateway(current_app).open(_call_request(request_id, turn.body(side.name)))
    except FAILURES as error:
        status, side.refusal = _refusal(error, request_id)
        return status
    assert isinstance(reply, Reply)
    choices = orjson.loads(reply.body).get("choices") or [{}]
    message = choices[0].get("message") or {}
    answer = {"role": "assistant", "content": message.get("content")}
    if calls := plain_calls(message.get("tool_calls")):
        answer["tool_calls"] = calls
    side.conversation = [*turn.messages(side.name), answer]
    side.call = db.session.get(GatewayCall, request_id)
    return 200


def _call_request(request_id: str, body: dict[str, Any]) -> CallRequest:
    received = IncomingRequest(
        request_id, cookie_token() or "", {}, body, orjson.dumps(body), address=request.remote_addr
    )
    org = g.get("org")
    return replace(PLAYGROUND.read(received), payer=PayerHint(org.id) if org else PayerHint())


def _refusal(error: Exception, request_id: str) -> tuple[int, Refusal]:
    answer = PLAYGROUND.error(error, ErrorContext(request_id, {}, settings()))
    code = str((answer.body.get("error") or {}).get("code") or "") if isinstance(answer.body, dict) else ""
    details = (answer.body.get("error") or {}).get("details") if isinstance(answer.body, dict) else None
    message = answer_message(answer.body)
    if code == "insufficient_credits" and not g.get("org"):
        return answer.status, Refusal(message, url_for("profile.profile", tab="billing"), "Add credits")
    if code == "budget_exceeded" and isinstance(details, dict) and details.get("request_url"):
        return answer.status, Refusal(message, str(details["request_url"]), "Ask for more")
    if code in ("model_not_found", "model_not_chat", "model_price_missing"):
        return answer.status, Refusal(message, url_for("models.models"), "See the models")
    return answer.status, Refusal(message)


# -- streams ---------------------------------------------------------------------------------------------------


def _stream(turn: PlaygroundTurn, side: str) -> ResponseReturnValue:
    body, request_id = turn.body(side), uuid.uuid4().hex
    try:
        answer = gateway(current_app).open(
            _call_request(request_id, {**body, "stream": True, "stream_options": {"include_usage": True}})
        )
    except FAILURES as error:
        status, refusal = _refusal(error, request_id)
        return _part("refused", refusal), status
    assert isinstance(answer, AnswerStream)
    viewer_locale()  # read once, for the figures at the end
    href = url_for("usage.call", request_id=request_id)

    @copy_current_request_context
    def end(streamed: StreamedAnswer) -> bytes:
        message, call = streamed.message, db.session.get(GatewayCall, request_id)
        found = {
            "conversation": [*turn.messages(side), message],
            "html": rendered(message),
            "facts": _part("facts", call, href) if call else "",
            "error": _part("refused", Refusal(streamed.error)) if streamed.error else "",
            "code": [each.text for each in code_of(site()["url"], body)],
        }
        return sse.frame(orjson.dumps(found), b"end")

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    streamed = StreamedAnswer(answer)
    figures_at = url_for("playground.figures", request_id=request_id)
    response = Response(_events(streamed, figures_at, end), content_type=EVENTS, headers=headers)
    response.call_on_close(streamed.close)
    return response


def _events(
    streamed: StreamedAnswer, figures_at: str, end: Callable[[StreamedAnswer], bytes]
) -> Iterator[bytes]:
    """`call` with the address of the figures, the pieces of the answer, then `end`: the message, its HTML, its figures and the code of
    the call."""
    yield sse.frame(orjson.dumps(figures_at), b"call")
    for kind, piece in streamed:
        yield sse.frame(orjson.dumps(piece), kind.encode()) if kind else sse.comment(b"waiting")
    yield end(streamed)


# -- the page --------------------------------------------------------------------------------------------------


def rendered(message: Mapping[str, Any]) -> str:
    """The text of a message as HTML: Markdown of an answer, sanitised; what the user wrote as it is."""
    content = message.get("content")
    text = content if isinstance(content, str) else ""
    if message.get("role") == "assistant":
        calls = message.get("tool_calls") or []
        return markdown.render(text) + _part("tools", calls) if calls else markdown.render(text)
    return _part("said", text)


def _part(name: str, *values: Any) -> str:
    """A macro of `_parts.html`, outside of a page: without the context of pages, which reads the database."""
    return cast(str, get_template_attribute("playground/_parts.html", name)(*values))


def _sides_of(values: Mapping[str, str]) -> list[PlaygroundSide]:
    """The conversations of a form with bad values, as far as they can be read."""
    sides = []
    for each in SIDES:
        try:
            filler = {
                "prompt": "x",
                "model_a": "x",
                f"conversation_{each}": values.get(f"conversation_{each}", ""),
            }
            sides.append(PlaygroundSide(each, list(read_turn(filler).conversations[each])))
        except Invalid:
            sides.append(PlaygroundSide(each))
    return sides


def _page(
    values: Mapping[str, str],
    sides: list[PlaygroundSide],
    *,
    errors: Mapping[str, str] | None = None,
    agent: AgentPrefill | None = None,
    turn: PlaygroundTurn | None = None,
    status: int = 200,
) -> Response:
    names = [each.requested for each in gateway(current_app).routes.models()]
    entered = {name: values.get(name, "").replace("\0", "") for name in FIELDS}
    entered["model_a"] = entered["model_a"] or suggested_model(names, viewed_account().id)
    example = {"model": entered["model_a"], "messages": [{"role": "user", "content": "What is a stoa?"}]}
    return render(
        "playground/playground.html",
        status=status,
        values=entered,
        sides=sides,
        errors=errors or {},
        agent=agent,
        agent_name=request.args.get("agent", ""),
        models=names,
        efforts=[("", "The model’s own"), *((each, each.capitalize()) for each in EFFORTS)],
        code=code_of(site()["url"], turn.body("a") if turn else example),
    )


@bp.app_template_filter("charged_dollars")
def charged_dollars(call: GatewayCall) -> Decimal:
    """What a call was charged, in dollars; exact."""
    return Decimal(call.micro_credits) / 100_000_000
