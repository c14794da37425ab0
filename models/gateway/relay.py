"""One call through the gateway: admit and hold, send, pass on what comes back, settle.

`Gateway.open` makes one round trip to the ledger before the provider is reached and none is open while it talks;
what it answers is whole (`Reply`) or still to come (`Stream`). Doors give shapes to what it raises.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from models.accounts.credentials import hash_token
from models.billing import holds
from models.billing.holds import Admission, Claim, LedgerUnavailable
from models.db import now
from models.errors import DomainError
from models.fairness import heavy, in_slices
from models.gateway import metrics, sse, tokens
from models.gateway.lenient_json import NotJson, read, write
from models.gateway.pricing import Prices
from models.gateway.refusals import UpstreamRefused, refusal, told, without_keys
from models.gateway.routing import NoPrice, Route, Routes, held_credits
from models.gateway.spool import Spool
from models.gateway.stream import OutOfCredits, Stream
from models.gateway.ticket import Facts, Gate, Keeper, Ticket, Till
from models.gateway.upstream import MAX_BODY, MAX_STREAM, READ, Answer, Broken, Empty, Request, UpstreamError
from models.gateway.wire import Call, Meter, Usage, failure_of, told_usage, usage_object
from models.gateway.wire.assembly import Assembly
from models.gateway.wire.output import parts_of
from models.gateway.wire.usage import at_least
from models.pool import Pool
from models.settings import Settings

log = logging.getLogger("stoa.gateway")

KEPT_REQUEST = 256 << 10
"""Bytes of a request's messages that are stored with the call."""
MOST_PARALLEL = 32
"""Answers made of one request by sending it several times."""
JSON_LINES = ("ndjson", "jsonl", "json-lines", "json-seq", "stream")
"""How a `Content-Type` tells of a stream of JSON."""
RECOGNISED = 30.0
MOST_RECOGNISED = 10_000


class Refused(Exception):
    """The ledger did not admit the call; `admission.outcome` says why."""

    def __init__(self, admission: Admission) -> None:
        super().__init__(admission.outcome)
        self.admission = admission


class RelayFailed(Exception):
    """Something unforeseen happened after the call was admitted. Nothing is charged."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a door wants. `call` is the request, or what is wrong with it: the ledger's checks come first.

    `answers` is how many answers a client wants merged into one (contract 5.4), 1 for the ordinary case.
    """

    door: str
    request_id: str
    key: str = field(repr=False)
    call: Call | DomainError
    run_id: str | None = None
    require_run: bool = False
    answers: int = 1
    client_id: str | None = None
    byok: str | None = field(default=None, repr=False)
    direct_openai: bool = False
    show_cost: bool = False
    """The client reads its cost from `usage.cost`."""
    greeting: bool = False
    """A stream begins with a comment line (contract 5.4)."""
    size: int = 0
    """Bytes of the request's body."""


@dataclass(slots=True)
class Reply:
    """A whole answer, as JSON. `dropped` are the keys that the provider was not sent."""

    body: bytes
    dropped: tuple[str, ...] = ()


class Gateway:
    """The gateway of one process."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self.pool = pool
        self.margin = settings.stoa_margin
        self.routes = Routes(settings, Prices.load(settings.stoa_prices_file))
        self.keeper = Keeper(pool)
        self.gate = Gate(pool, settings.stoa_free_credits)
        self.spool = Spool(pool, settings.data_dir / "unsettled")
        self.till = Till(pool, self.spool)
        self._recognised: dict[str, float] = {}
        self.streams: set[Stream] = set()
        """Streams whose provider is still read."""

    def admit(self, ask: Ask, hold: int | None, model: str, minimum: int = 0) -> Admission:
        """Check the caller and take the hold (None: only check), when `minimum` at least is free. Raises Refused, or
        LedgerUnavailable while calls wait to be settled."""
        claim = Claim(
            token_hash=hash_token(ask.key),
            request_id=ask.request_id,
            hold=hold,
            minimum=minimum,
            run_id=ask.run_id,
            require_run=ask.require_run,
            door=ask.door,
            model=model,
        )
        return self._ask_ledger(claim)

    def _ask_ledger(self, claim: Claim) -> Admission:
        self.spool.check()
        with metrics.timed("admit"):
            admission = self.gate.admit(claim)
        if admission.outcome not in ("admitted", "checked"):
            metrics.of(metrics.ERRORS, claim.door, admission.outcome).inc()
            raise Refused(admission)
        return admission

    def recognise(self, key: str, request_id: str, door: str) -> None:
        """Whose a key is, before a large request is read. Raises Refused as `admit` does, LedgerUnavailable.

        Who was recognised stays so for `RECOGNISED` seconds: nothing is served for it, `admit` asks anew.
        """
        token_hash = hash_token(key)
        moment = time.monotonic()
        if self._recognised.get(token_hash, 0.0) > moment:
            return
        self._ask_ledger(
            Claim(
                token_hash=token_hash,
                request_id=request_id,
                hold=None,
                run_id=None,
                require_run=False,
                door=door,
                model="",
            )
        )
        if len(self._recognised) >= MOST_RECOGNISED:
            self._recognised.clear()
        self._recognised[token_hash] = moment + RECOGNISED

    def open(self, ask: Ask) -> "Reply | Stream":
        """Make the call. Raises Refused, UpstreamRefused, UpstreamError, LedgerUnavailable, or the DomainError that
        says what is wrong with the request; each only after the checks that the contract puts before it."""
        started, started_at = time.monotonic(), now()
        try:
            call, route, request = self._plan(ask)
        except DomainError as refusal:
            self._refuse(ask, refusal, started, started_at)
            raise
        hold = minimum = answers = 0
        if route.byok is None:
            answers = ask.answers * call.n if ask.answers > 1 and not route.provider.native_n else call.n
            hold = held_credits(route.worst_cost(call, answers), self.margin)
            minimum = min(held_credits(route.input_cost(call.input_tokens, answers), self.margin), hold)
        # what costs nothing waits for nobody's holds
        admission = self.admit(ask, hold or None, call.model, minimum)
        facts = Facts(
            door=ask.door,
            requested_model=call.model,
            stream=call.stream,
            started_at=started_at,
            started=started,
            client_id=ask.client_id,
            kept_request=kept_messages(call.body["messages"], ask.size),
        )
        ticket = Ticket(self.till, self.keeper, admission, facts, route, self.margin)
        try:
            # once more: the ledger may have taken its time to admit
            self.spool.check(admission.account_id)
        except LedgerUnavailable as error:
            ticket.fail(error.code, None)
            raise
        try:
            if hold > max(admission.available, 0):
                self._recount(call, route, answers, admission)
            answer = (
                self._stream(ask, call, ticket, request)
                if call.stream
                else self._whole(ask, call, ticket, request)
            )
            answer.dropped = route.dropped
            return answer
        except Refused:
            ticket.fail("insufficient_credits", None)
            raise
        except UpstreamRefused as error:
            error.dropped = route.dropped
            ticket.fail("upstream_status", error.status)
            raise
        except UpstreamError as error:
            error.dropped = route.dropped
            ticket.fail(error.kind, None)
            raise
        except LedgerUnavailable:
            raise
        except Exception as error:
            ticket.close()
            raise RelayFailed from error
        except BaseException:
            ticket.close()
            raise

    def close(self, patience: float = 4.0) -> None:
        """The process ends: stop every stream, and wait so many seconds until all are settled."""
        for stream in list(self.streams):
            stream.stop()
        end = time.monotonic() + patience
        while self.streams and time.monotonic() < end:
            time.sleep(0.05)

    def _plan(self, ask: Ask) -> tuple[Call, Route, Request]:
        if isinstance(ask.call, DomainError):
            raise ask.call
        call = ask.call
        route = self.routes.find(call.model, byok=ask.byok, direct_openai=ask.direct_openai)
        if ask.answers > 1 and route.provider.native_n:
            call = replace(call.with_body(n=ask.answers), n=ask.answers)
        with heavy(ask.size):
            return call, *self.routes.prepare(route, call)

    def _recount(self, call: Call, route: Route, answers: int, admission: Admission) -> None:
        """Refuse a call that was let in because it is alone, when its text is so odd that its input alone costs more than
        is free. Text is counted only here, where it can decide something. Raises Refused."""

        def cost(text_tokens: int) -> int:
            return held_credits(route.input_cost(text_tokens, answers), self.margin)

        if cost(max(call.input_tokens, call.text_bytes)) <= admission.available:
            return
        counted = cost(tokens.count_messages(call.body["messages"], call.body.get("tools")))
        if counted > admission.available:
            raise Refused(replace(admission, outcome="insufficient", minimum=counted))

    def _refuse(self, ask: Ask, refusal: DomainError, started: float, started_at: datetime) -> None:
        """Let the ledger's own refusals come first; note the names of models that have no price."""
        model = ask.call.model if isinstance(ask.call, Call) else ""
        admission = self.admit(ask, None, model)
        metrics.of(metrics.ERRORS, ask.door, refusal.code).inc()
        if isinstance(refusal, NoPrice):
            failure = holds.Failure(
                requested_model=model,
                started_at=started_at,
                latency_ms=int((time.monotonic() - started) * 1000),
                error=refusal.code,
                http_status=None,
            )
            holds.fail(self.pool, admission, failure)

    def _stream(self, ask: Ask, call: Call, ticket: Ticket, request: Request) -> Stream:
        answer = ticket.route.provider.upstream.send(request)
        try:
            begun = _opening(answer)
            if not _succeeded(answer):
                raise refusal(answer, ticket.route, begun)
            if begun and not sse.looks_like_it(begun):
                if "json" not in _kind(answer):
                    raise refusal(answer, ticket.route, begun)
                begun += answer.read()
                _read(begun, ticket.route, call, answer)
            meter = ticket.route.provider.meter(call)
            stream = Stream(self, ask, call, ticket, answer, meter, begun)
        except BaseException:
            answer.close()
            raise
        stream.start()
        return stream

    def _whole(self, ask: Ask, call: Call, ticket: Ticket, request: Request) -> Reply:
        route = ticket.route
        copies = 1 if route.provider.native_n else ask.answers
        gathered = _gather(route, call, request, copies)
        meters = [meter for _, _, meter in gathered]
        raw, first, meter = gathered[0]
        if all(meter.empty for meter in meters):
            # a choice that ended without a word, from a provider that reports nothing: passed on, and not billed
            ticket.fail(Empty.kind, None)
            return Reply(raw)
        usages = [meter.usage() or self.counted(call, meter, route.model) for meter in meters]
        usage = _sum(usages)
        # each is a request of its own, with its own price tier, price of a request, and reported cost
        costs = [
            self.routes.cost(route, each, meter.model) for each, meter in zip(usages, meters, strict=True)
        ]
        cost, price = sum((dollars for dollars, _ in costs), Decimal(0)), _priced(costs)
        texts = [text for _, body, _ in gathered for text in _contents(body)]
        response = write(texts).decode() if ask.answers > 1 else meter.answer
        ticket.settle(
            usage,
            cost,
            price,
            model=meter.model,
            message_id=meter.id,
            response=response,
            reasoning=meter.reasoning,
        )
        shown = self._finished(ask, first, usage, cost, response, meters)
        return Reply(raw if shown is first else write(shown))

    def _finished(
        self, ask: Ask, body: dict[str, Any], usage: Usage, cost: Decimal, response: Any, meters: list[Meter]
    ) -> dict[str, Any]:
        """The body for the client: the provider's, with merged choices and the cost where they are wanted."""
        if ask.answers > 1:
            message = {"content": response, "role": "assistant"}
            body = {**body, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            body["usage"] = usage_object(usage)
        elif (shown := told_usage(usage)) is not body.get("usage"):
            # counted, a choice's, told in parts or in other names: it is put where clients look for it
            body = {**body, "usage": shown}
        if ask.show_cost:
            told = self.with_cost(body["usage"], usage, cost)
            body = body if told is body["usage"] else {**body, "usage": told}
        return body

    def cover(self, ticket: Ticket, call: Call, output_tokens: int) -> int:
        """Let an answer in flight go on: hold credits for twice the output it has by now, or for as much as there are
        credits. Returns the tokens covered. Raises OutOfCredits when not even those that are there are."""
        needed, wanted = (
            held_credits(ticket.route.cost_up_to(call, tokens, call.n), self.margin)
            for tokens in (output_tokens, 2 * output_tokens)
        )
        if not wanted:
            return 2 * output_tokens
        held = ticket.grow(needed, wanted)
        if held is None:
            raise OutOfCredits("Your credits ran out while this answer was written, so it ends here.")
        if held >= wanted:
            return 2 * output_tokens
        return output_tokens + output_tokens * (held - needed) // (wanted - needed)

    def with_cost(self, shown: dict[str, Any], usage: Usage, cost: Decimal) -> dict[str, Any]:
        """A `usage` object whose cost leads the compatible SDK to the credits that the ledger charged.

        The SDK adds 5.5 % on its own; with another margin the cost shown differs from the cost paid.
        """
        told = cost * (1 + self.margin) / SDK_MARGIN
        if told == _as_the_sdk_adds(shown):
            return shown
        details = shown.get("cost_details")
        details = {**(details if isinstance(details, dict) else {}), "upstream_inference_cost": None}
        return {**shown, "cost": float(told), "cost_details": details}

    def counted(self, call: Call, meter: Meter, model: str) -> Usage:
        """Usage by counting the request and what was delivered, for a provider that gave no credible figures, or none
        for all of its answer: then it is no less than any figure it gave."""
        source = "counted" if tokens.knows(meter.model or model) else "estimated"
        if meter.empty:
            return Usage(source=source)
        raw = meter.raw_usage
        told_input, told_output = at_least(raw or {})
        input, media = tokens.count_input(call.body["messages"], call.body.get("tools"))
        output, reasoning = tokens.count_output(meter.output)
        made = {"audio_output": meter.output.audio_tokens, "image_output": meter.output.picture_tokens}
        counted = Usage(
            uncached_input=max(input, told_input),
            output=max(output, told_output, reasoning + sum(made.values())),
            reasoning=reasoning,
            source=source,
            cost=meter.cost,
            parts=media | {name: count for name, count in made.items() if count},
            flags=("usage_unusable",) if raw and not (meter.usage() or meter.reported) else (),
            raw=raw,
        )
        return counted if meter.reported is None else _at_least(meter.reported, counted)


SDK_MARGIN = Decimal("1.055")

Fetched = tuple[bytes, dict[str, Any], Meter]
"""An answer as JSON that every client reads, its value, and its measures."""


def _gather(route: Route, call: Call, request: Request, copies: int) -> list[Fetched]:
    """The answers to `copies` sendings of a request, those that failed left out. Raises the first one's error when
    all did."""
    found: list[Fetched | BaseException | None] = [None] * copies

    def fetch(index: int) -> None:
        try:
            found[index] = _fetch(route, call, request)
        except BaseException as error:
            found[index] = error

    threads = [threading.Thread(target=fetch, args=(index,), daemon=True) for index in range(1, copies)]
    for thread in threads:
        thread.start()
    fetch(0)
    for thread in threads:
        thread.join()
    answers = [item for item in found if isinstance(item, tuple)]
    if not answers:
        assert isinstance(found[0], BaseException)
        raise found[0]
    return answers


def _fetch(route: Route, call: Call, request: Request) -> Fetched:
    answer = route.provider.upstream.send(request)
    try:
        if not _succeeded(answer):
            raise refusal(answer, route)
        return _read(
            answer.read(MAX_STREAM if "event-stream" in _kind(answer) else MAX_BODY), route, call, answer
        )
    finally:
        answer.close()


def _read(raw: bytes, route: Route, call: Call, answer: Answer) -> Fetched:
    """The answer that a body is, whole or in events. Raises what a client is told instead of one."""
    title = route.provider.title
    if not raw.strip():
        raise Empty(f"{title} sent an empty answer. Nothing was charged; try again.")
    meter = route.provider.meter(call)
    body: Any = None
    with suppress(NotJson):
        body, raw = read(raw)
    if isinstance(body, dict):
        meter.body(body)
        if meter.amended:
            body["object"] = "chat.completion"
            raw = write(body)
    elif failure_of(body) is None and (assembled := _assembled(raw, title, meter)) is not None:
        body, raw = assembled, write(assembled)
    failure = meter.failure or (None if meter.started else failure_of(body))
    if failure and not meter.started:
        if (said := without_keys(raw, route)) != raw:
            failure = failure_of(read(said).value) or failure
        raise told(failure, failure.status or 502, route, answer.headers.get("Retry-After"))
    choices = body.get("choices") if isinstance(body, dict) else 0
    if not isinstance(body, dict) or not (choices is None or isinstance(choices, list)):
        raise Broken(f"{title} sent an answer that cannot be read.")
    if meter.empty and not meter.ended:
        raise Empty(
            f"{title} sent an answer without content and without usage. Nothing was charged; try again."
        )
    return raw, body, meter


def _assembled(raw: bytes, title: str, meter: Meter) -> dict[str, Any] | None:
    """The whole answer that the events of a body make; None when it holds none. Raises Broken when it was cut off."""
    parser, assembly = sse.Parser(title), Assembly()
    done = found = False
    for event in in_slices(_events(parser, raw)):
        chunk = None
        with suppress(NotJson):
            chunk = read(event.data or b"").value
        if done := event.data is not None and sse.is_done(event.data):
            break
        if isinstance(chunk, dict):
            meter.event(chunk, is_error=event.name == b"error")
            assembly.add(chunk)
            found = True
    if not found:
        return None
    if not (done or meter.ended or meter.billed or meter.failure):
        raise Broken(f"{title} ended the connection before its answer was complete.")
    return assembly.body(meter.output, meter.raw_usage)


def _events(parser: sse.Parser, raw: bytes) -> Iterator[sse.Event]:
    for start in range(0, len(raw), READ):
        yield from parser.feed(raw[start : start + READ])
    yield from parser.end()


def _succeeded(answer: Answer) -> bool:
    return 200 <= answer.status < 300


def _kind(answer: Answer) -> str:
    return (answer.headers.get("Content-Type") or "").lower()


def _opening(answer: Answer) -> bytes:
    """The first bytes of what is announced as no event stream, and may be one all the same."""
    kind = _kind(answer)
    begun = b""
    if ("json" in kind and not any(word in kind for word in JSON_LINES)) or "html" in kind:
        for piece in answer.blocks():
            begun += piece
            if len(begun.strip()) > 10:
                break
    return begun


def _priced(costs: list[tuple[Decimal, dict[str, str]]]) -> dict[str, str]:
    """The figures that priced several requests: those of the first, with what was odd about any."""
    figures = dict(costs[0][1])
    flags = dict.fromkeys(flag for _, price in costs for flag in price.get("flags", "").split())
    return figures | ({"flags": " ".join(flags)} if flags else {})


def _at_least(reported: Usage, counted: Usage) -> Usage:
    """What a provider reported of an answer that went on, raised to what was counted of it."""
    more_input = max(counted.input - reported.input, 0)
    more_output = max(counted.output - reported.output, 0)
    parts = dict(reported.parts)
    for name, count in counted.parts.items():
        if (more_input and name.endswith("_input")) or (more_output and name.endswith("_output")):
            parts[name] = max(count, parts.get(name, 0))
    put, made = (
        sum(count for name, count in parts.items() if name.endswith(end)) for end in ("_input", "_output")
    )
    output = max(reported.output + more_output, reported.reasoning + made)
    return replace(
        reported,
        uncached_input=max(reported.uncached_input + more_input, put),
        output=output,
        reasoning=min(max(reported.reasoning, counted.reasoning), output - made),
        parts=parts,
        source=counted.source,
        cost=None if more_input or more_output else reported.cost,
        least_cost=reported.cost or Decimal(0),
    )


def _as_the_sdk_adds(shown: Mapping[str, Any]) -> Decimal | None:
    """The dollars that the compatible SDK reads out of a `usage` object; None where it would not find numbers."""
    details = shown.get("cost_details")
    extra = details.get("upstream_inference_cost") if isinstance(details, dict) else None
    cost, more = shown.get("cost"), 0 if extra is None else extra
    if type(cost) not in (int, float) or type(more) not in (int, float):
        return None
    return Decimal(repr(cost)) + Decimal(repr(more))


def _contents(body: dict[str, Any]) -> list[str]:
    messages = [choice.get("message") for choice in body.get("choices") or () if isinstance(choice, dict)]
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    return ["".join(text for kind, text in parts_of(content) if kind == "text") for content in contents]


def _sum(usages: Iterable[Usage]) -> Usage:
    first, *rest = usages
    for usage in rest:
        first += usage
    return first


def kept_messages(messages: list[Any], size: int) -> list[Any]:
    """The messages that are stored with a call: the newest that fit, with a note about what was left out."""
    if size and size <= KEPT_REQUEST:
        return messages
    kept: list[Any] = []
    room = KEPT_REQUEST
    for message in reversed(messages):
        room -= len(orjson.dumps(message))
        if room < 0:
            break
        kept.append(message)
    if len(kept) == len(messages):
        return messages
    left = len(messages) - len(kept)
    note = f"{left} earlier message{'s' if left > 1 else ''} not kept: a call keeps its newest {KEPT_REQUEST >> 10} KiB."
    return [{"role": "note", "content": note}, *reversed(kept)]
