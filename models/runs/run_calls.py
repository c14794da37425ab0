"""The details of one model call: timing, tokens, prices, ledger entries and messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlalchemy import Row, case, cast, func, outerjoin, select, tuple_
from sqlalchemy.dialects.postgresql import JSONPATH

from models.accounts import ApiKey, Session
from models.core.db import db
from models.gateway import CallBody, GatewayCall
from models.gateway.chat_format.token_usage import PARENT_BUCKETS, UNKNOWN, is_unit
from models.ledger import CreditEntry, CreditLedger, credits_of
from models.runs.call_definitions import CallDefinitions, definitions_of
from models.runs.call_replay import CallReplay, replay_of
from models.runs.run import AgentRun
from models.runs.transcript import Transcript, transcript
from models.usage import Message

MILLION = Decimal(1_000_000)
DEFAULT_MESSAGES = 60
MAX_MESSAGES = 2_000


@dataclass(frozen=True)
class PricedBucket:
    """A disjoint kind of token: count, price in dollars per million tokens (None if unknown), and cost in dollars."""

    name: str
    tokens: int
    price: Decimal | None
    cost: Decimal | None
    reasoning_excluded: bool = False
    """Reasoning tokens have their own price and bucket."""
    per_unit: bool = False
    """Priced per unit: `tokens` counts units, `price` is in dollars per unit."""


@dataclass(frozen=True)
class LedgerLine:
    """A ledger entry of the call. `grant_type` is the type of the credits used."""

    at: datetime
    kind: str
    amount: int
    grant_type: str | None
    balance_after: int


@dataclass(frozen=True)
class CallDetail:
    """The data of a call's page. `key_name` is the display name of the API key, never the key.
    `payer` says in words why this account paid, None for a person's own key."""

    call: GatewayCall
    run: AgentRun | None
    byok: bool
    key_name: str | None
    buckets: Sequence[PricedBucket]
    request_price: Decimal | None
    ledger: Sequence[LedgerLine]
    transcript: Transcript
    payer: str | None
    repo_url: str | None
    client_id: str | None
    error_message: str | None
    """The error in full; None if it is not kept."""
    definitions: CallDefinitions | None
    replay: CallReplay | None
    previous: str | None
    next: str | None

    @property
    def list_cost(self) -> Decimal | None:
        """Cost in dollars at the stored prices; None unless all are known."""
        costs = [bucket.cost for bucket in self.buckets if bucket.tokens]
        known = [cost for cost in costs if cost is not None]
        if len(known) < len(costs):
            return None
        return sum(known, self.request_price or Decimal(0))

    @property
    def tokens(self) -> int:
        """Total tokens, each counted once."""
        return sum(bucket.tokens for bucket in self.buckets if not bucket.per_unit)

    @property
    def charged(self) -> int:
        """Credits charged for the call."""
        return 0 if self.byok else self.call.credits

    @property
    def price_source(self) -> str | None:
        """The price table and row that the prices are from."""
        source = (self.call.price or {}).get("source")
        return source if isinstance(source, str) else None

    @property
    def margin(self) -> Decimal | None:
        """The server's margin at the time of the call, a fraction; None if the cost is too small to tell."""
        cost, micro = self.call.cost, self.call.micro_credits
        if not cost or not micro:
            return None
        margin = (Decimal(micro) / MILLION / (cost * 100) - 1).quantize(Decimal("0.0001"))
        return margin if 0 <= margin <= 10 and credits_of(cost, margin)[0] == micro else None

    @property
    def arithmetic(self) -> list[tuple[str, Decimal]]:
        """How the cost became credits, step by step: names and exact credits. Empty if nothing was computed."""
        exact, plain = Decimal(self.call.micro_credits) / MILLION, self.call.cost * 100
        if not exact or self.byok:
            return []
        steps = [] if self.margin is None else [("In credits, 1 per cent", plain)]
        steps += (
            []
            if self.margin is None
            else [(f"Margin of {self.margin * 100:f}".rstrip("0").rstrip(".") + "%", exact - plain)]
        )
        return [*steps, ("Exact credits", exact)]

    @property
    def explanation(self) -> str:
        """Explain in one or two sentences how the cost became the charge."""
        call, sentences = self.call, []
        if self.list_cost is None:
            sentences.append("The provider reported the cost of this call.")
        elif abs(self.list_cost - call.cost) >= Decimal("0.000001"):
            sentences.append(
                f"The provider reported this cost; at list prices it would be ${self.list_cost:.6f}."
            )
        exact = Decimal(call.micro_credits) / MILLION
        if self.byok:
            sentences.append(
                f"Your own provider key paid, so nothing was charged; the list price is {exact:.4f} credits."
            )
        elif call.carry_credits:
            sentences.append("Fractions of earlier calls added up to a whole credit, charged with this call.")
        elif call.credits == 0 and call.micro_credits:
            sentences.append(
                f"Less than half a credit ({exact:.6f}): carried over until fractions add up to a whole credit."
            )
        elif exact:
            sentences.append(f"Exactly {exact:.4f} credits with the margin; whole credits are charged.")
        elif call.cost == 0:
            sentences.append("This model is free.")
        return " ".join(sentences)

    @property
    def tokens_per_second(self) -> Decimal | None:
        """Output tokens per second after the first token; None if unknown."""
        call = self.call
        span = call.latency_ms - call.ttft_ms if call.ttft_ms is not None else 0
        return Decimal(call.output_tokens * 1000) / span if span >= 100 and call.output_tokens else None


def call_of(
    call: GatewayCall, run: AgentRun | None, *, all_messages: bool = False, user_id: str = ""
) -> CallDetail:
    """The page's data of a call; `run` is its run, if that is the account's: its neighbours are then those in the run, else
    those of the account, with `user_id` of this member.

    Reads the last 60 messages, or the last 2,000 with `all_messages`.
    """
    message, messages = _message(call, MAX_MESSAGES if all_messages else DEFAULT_MESSAGES)
    whole = message is not None and not messages.omitted
    return CallDetail(
        call,
        run,
        bool(message and message.byok),
        _key_name(call),
        _buckets(call),
        _decimal(call.price, "request"),
        _ledger(call),
        messages,
        PAID_BY.get(message.paid_by or "") if message else None,
        message.repo_url if message else None,
        message.client_id if message else None,
        message.error_message if message else None,
        definitions_of(message.definitions) if message else None,
        replay_of(call, message.request, message.definitions) if message and whole else None,
        *_adjacent_calls(call, run, user_id),
    )


def replay_of_call(call: GatewayCall) -> CallReplay | None:
    """The whole request of a call; None if it was not kept."""
    query = select(_kept("request"), _kept("definitions")).select_from(CALL_BODIES)
    found = db.session.execute(query.where(GatewayCall.request_id == call.request_id)).one_or_none()
    return None if found is None else replay_of(call, found.request, found.definitions)


PAID_BY = {
    "key": "the organisation of the key",
    "named": "the organisation that the call named",
    "repository": "the organisation that has the repository",
    "fallback:no_match": "the person: no organisation of theirs has the repository",
    "fallback:role": "the person: their role in the organisation makes no calls",
    "fallback:sso": "the person: the organisation requires single sign-on, and the key was not authorised",
    "fallback:team": "the person: their team may not use the repository",
    "fallback:out_of_credits": "the person: the organisation was out of credits",
}
"""`message.paid_by` in words."""


CALL_BODIES = outerjoin(GatewayCall, Message, Message.id == GatewayCall.message_id).outerjoin(
    CallBody, CallBody.request_id == GatewayCall.request_id
)
"""Calls with what is kept of them, charged or not."""


def _kept(name: str) -> Any:
    """A column that is kept of calls, charged or not."""
    return func.coalesce(getattr(Message, name), getattr(CallBody, name)).label(name)


def _message(call: GatewayCall, limit: int) -> tuple[Row[Any] | None, Transcript]:
    """Return what is kept of the call, and the transcript of its last `limit` messages.

    PostgreSQL cuts the request, which may be megabytes long.
    """
    request = func.coalesce(Message.request, CallBody.request)
    length = case((func.jsonb_typeof(request) == "array", func.jsonb_array_length(request)), else_=1)
    last = func.jsonb_path_query_array(request, cast(f"$[last - {limit - 1} to last]", JSONPATH))
    query = (
        select(
            Message.byok,
            Message.paid_by,
            Message.repo_url,
            Message.client_id,
            last.label("request"),
            length.label("total"),
            _kept("response"),
            _kept("definitions"),
            Message.reasoning_text,
            CallBody.error_message,
        )
        .select_from(CALL_BODIES)
        .where(GatewayCall.request_id == call.request_id)
    )
    found = db.session.execute(query).one_or_none()
    if found is None:
        return None, Transcript(None, None)
    return found, transcript(found.request, found.total, found.response, found.reasoning_text)


def _key_name(call: GatewayCall) -> str | None:
    if call.key_id is None:
        return None
    key = db.session.get(Session, call.key_id)
    if key is None:
        revoked = db.session.scalar(select(ApiKey).where(ApiKey.key_id == call.key_id))
        return (revoked.name or revoked.key_id) if revoked else "a deleted key"
    types = {"web": "browser session", "cli": "command line", "pat": "API key"}
    return key.name or f"{types[key.type]} {key.token_hint}"


def _buckets(call: GatewayCall) -> list[PricedBucket]:
    """Return input buckets by cache use, then output, with a separate bucket for each kind that has its own price."""
    reasoning = min(call.reasoning_tokens, call.output_tokens)
    reasoning_priced = _decimal(call.price, "reasoning") is not None
    remaining = {
        "input": call.uncached_input_tokens,
        "cache_write": call.cache_write_tokens,
        "cache_read": call.cache_read_tokens,
        "output": call.output_tokens - (reasoning if reasoning_priced else 0),
    }
    special = {name: count for name, count in (call.parts or {}).items() if _part_name(name)}
    for name, count in special.items():
        if name in PARENT_BUCKETS:
            remaining[PARENT_BUCKETS[name]] -= count
    rows = [
        ("Input", remaining["input"], "input"),
        ("Input, written to cache", remaining["cache_write"], "cache_write"),
        ("Input, read from cache", remaining["cache_read"], "cache_read"),
        ("Output", remaining["output"], "output"),
        *([("Reasoning", reasoning, "reasoning")] if reasoning_priced else []),
        *((_part_name(name), count, name) for name, count in special.items()),
    ]
    return [_bucket(call, name, count, key, reasoning_priced) for name, count, key in rows]


def _bucket(call: GatewayCall, name: str, count: int, key: str, reasoning_priced: bool) -> PricedBucket:
    price, per_unit = _decimal(call.price, key), is_unit(key)
    cost = None if price is None else price * count / (Decimal(1) if per_unit else MILLION)
    return PricedBucket(name, count, price, cost, reasoning_priced, per_unit)


_PARTS = {
    "cache_write_30m": "Input, written to cache for 30 minutes",
    "cache_write_1h": "Input, written to cache for an hour",
    "cache_write_12h": "Input, written to cache for 12 hours",
    "audio_input": "Audio input",
    "image_input": "Image input",
    "video_input": "Video input",
    "cached_audio": "Audio input, read from cache",
    "cached_image": "Image input, read from cache",
    "cached_video": "Video input, read from cache",
    "audio_output": "Audio output",
    "image_output": "Image output",
    "video_output": "Video output",
    "web_searches": "Web searches",
    "file_searches": "File searches",
    "images": "Images",
    "seconds": "Seconds of audio",
    "characters": "Characters",
    "search_units": "Search units",
}


def _part_name(part: str) -> str:
    """The name of a part; empty if it has none. Images have their size and quality behind it."""
    unit, _, details = part.partition(":")
    known = " ".join(each for each in details.split(":") if each not in ("", UNKNOWN))
    return " ".join(filter(None, (_PARTS.get(unit, ""), known)))


def _decimal(price: Mapping[str, Any] | None, key: str) -> Decimal | None:
    value = (price or {}).get(key)
    if not isinstance(value, str | int):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _ledger(call: GatewayCall) -> list[LedgerLine]:
    """Return the ledger entries of the call in the order they were written."""
    if call.message_id is None:
        return []
    query = (
        select(CreditEntry, CreditLedger.type)
        .outerjoin(CreditLedger, CreditLedger.operation_id == CreditEntry.operation_id)
        .where(CreditEntry.account_id == call.account_id, CreditEntry.message_id == call.message_id)
        .order_by(CreditEntry.id)
        .limit(50)
    )
    return [
        LedgerLine(entry.created_at, entry.kind, entry.amount, grant_type, entry.balance_after)
        for entry, grant_type in db.session.execute(query)
    ]


def _adjacent_calls(call: GatewayCall, run: AgentRun | None, user_id: str) -> tuple[str | None, str | None]:
    """Return the ids of the calls before and after this one: of the run in the order of their start, else of the account as in
    its list. Looks a day far for those of one member, who may have few of the account's calls."""
    scope = [GatewayCall.account_id == call.account_id]
    at = GatewayCall.finished_at if run is None else GatewayCall.started_at
    if run is not None:
        scope.append(GatewayCall.run_id == run.id)
    elif user_id:
        day = timedelta(days=1)
        scope.append(GatewayCall.user_id == user_id)
        scope.append(at.between(call.finished_at - day, call.finished_at + day))
    order = (at, GatewayCall.request_id)
    position = tuple_(*order)
    current = tuple_(call.finished_at if run is None else call.started_at, call.request_id)
    base = select(GatewayCall.request_id).where(*scope).limit(1)
    before = base.where(position < current).order_by(*(each.desc() for each in order)).scalar_subquery()
    after = base.where(position > current).order_by(*order).scalar_subquery()
    row = db.session.execute(select(before.label("before"), after.label("after"))).one()
    return row.before, row.after
