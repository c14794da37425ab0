"""One model call of a run, opened: who, how long, its tokens and prices, its ledger entries, its messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlalchemy import ColumnElement, case, cast, func, select, tuple_
from sqlalchemy.dialects.postgresql import JSONPATH

from models.accounts import Session
from models.core.db import db
from models.core.errors import NotFound
from models.gateway import GatewayCall
from models.gateway.chat_format.token_usage import PARENT_BUCKETS, UNITS
from models.ledger import CreditEntry, CreditLedger
from models.runs.run import AgentRun
from models.runs.transcript import Transcript, transcript
from models.usage import Message

MILLION = Decimal(1_000_000)
MESSAGES_SHOWN = 60
MOST_MESSAGES = 2_000


@dataclass(frozen=True)
class PricedBucket:
    """One disjoint kind of token: how many, dollars per million (None: not known), dollars in all."""

    name: str
    tokens: int
    price: Decimal | None
    cost: Decimal | None
    apart: bool = False
    """Output without its reasoning, which has a price of its own."""
    piece: bool = False
    """Charged by the piece: `tokens` counts pieces, `price` is dollars for one."""


@dataclass(frozen=True)
class LedgerLine:
    """A movement that settled the call. `grant_type` says which credits paid."""

    at: datetime
    kind: str
    amount: int
    grant_type: str | None
    balance_after: int


@dataclass(frozen=True)
class CallDetail:
    """All that the page of a call shows. `key_name` is the name its key goes by, never the key."""

    call: GatewayCall
    run: AgentRun | None
    byok: bool
    key_name: str | None
    buckets: Sequence[PricedBucket]
    request_price: Decimal | None
    ledger: Sequence[LedgerLine]
    transcript: Transcript
    previous: str | None
    next: str | None

    @property
    def priced(self) -> Decimal | None:
        """What the kept prices come to, dollars; None when they are not all known."""
        costs = [bucket.cost for bucket in self.buckets if bucket.tokens]
        known = [cost for cost in costs if cost is not None]
        if len(known) < len(costs):
            return None
        return sum(known, self.request_price or Decimal(0))

    @property
    def tokens(self) -> int:
        """All tokens, each counted once."""
        return sum(bucket.tokens for bucket in self.buckets if not bucket.piece)

    @property
    def charged(self) -> int:
        """Credits the ledger took for the call."""
        return 0 if self.byok else self.call.credits

    @property
    def explanation(self) -> str:
        """How the cost became the charge, in a sentence or two."""
        call, words = self.call, []
        if self.priced is None:
            words.append("The provider reported the cost of this call.")
        elif abs(self.priced - call.cost) >= Decimal("0.000001"):
            words.append(f"The provider reported this cost; the prices come to ${self.priced:.6f}.")
        exact = Decimal(call.micro_credits) / MILLION
        if self.byok:
            words.append("Your own provider key paid, so nothing was charged.")
        elif call.carry_credits:
            words.append(
                "Fractions of earlier calls had added up to a whole credit, which this call completed."
            )
        elif call.credits == 0 and call.micro_credits:
            words.append(
                f"Less than half a credit ({exact:.6f}): kept on the account until fractions make one."
            )
        elif exact:
            words.append(f"Exactly {exact:.4f} credits with the margin; whole credits are charged.")
        elif call.cost == 0:
            words.append("This model is free.")
        return " ".join(words)

    @property
    def tokens_per_second(self) -> Decimal | None:
        """Output speed after the first token; None when it cannot be told."""
        call = self.call
        span = call.latency_ms - call.ttft_ms if call.ttft_ms is not None else 0
        return Decimal(call.output_tokens * 1000) / span if span >= 100 and call.output_tokens else None


def call_of(
    account_id: str, run: AgentRun | None, request_id: str, *, all_messages: bool = False
) -> CallDetail:
    """A call of the account's run; without a run, one that belongs to none. Raises NotFound, also for a call of another
    run or another account.

    At most 60 messages are read unless `all_messages`, then at most 2,000: the last ones.
    """
    of_run = GatewayCall.run_id.is_(None) if run is None else GatewayCall.run_id == run.id
    mine = (GatewayCall.account_id == account_id, of_run)
    query = select(GatewayCall).where(*mine, GatewayCall.request_id == request_id)
    call = None if "\x00" in request_id else db.session.scalar(query)
    if call is None:
        raise NotFound("There is no such call here")
    byok, said = _said(account_id, call, MOST_MESSAGES if all_messages else MESSAGES_SHOWN)
    return CallDetail(
        call,
        run,
        byok,
        _key_name(call),
        _buckets(call),
        _figure(call.price, "request"),
        _ledger(call),
        said,
        *_neighbours(mine, call),
    )


def _said(account_id: str, call: GatewayCall, most: int) -> tuple[bool, Transcript]:
    """Whether the caller's own provider key paid, and what was said: the last messages only, since a request
    may be megabytes."""
    length = case(
        (func.jsonb_typeof(Message.request) == "array", func.jsonb_array_length(Message.request)), else_=1
    )
    last = func.jsonb_path_query_array(Message.request, cast(f"$[last - {most - 1} to last]", JSONPATH))
    query = select(
        Message.byok,
        last.label("request"),
        length.label("total"),
        Message.response,
        Message.reasoning_text,
    ).where(Message.account_id == account_id, Message.id == call.message_id)
    found = db.session.execute(query).one_or_none() if call.message_id else None
    if found is None:
        return False, Transcript(None, None)
    return found.byok, transcript(found.request, found.total, found.response, found.reasoning_text)


def _key_name(call: GatewayCall) -> str | None:
    if call.key_id is None:
        return None
    key = db.session.get(Session, call.key_id)
    if key is None:
        return "a key that is gone"
    kinds = {"web": "browser session", "cli": "command line", "pat": "API key"}
    return key.name or f"{kinds[key.type]} {key.token_hint}"


def _buckets(call: GatewayCall) -> list[PricedBucket]:
    """Input by where it came from, then output; what has a price of its own stands apart."""
    reasoning = min(call.reasoning_tokens, call.output_tokens)
    apart = _figure(call.price, "reasoning") is not None
    left = {
        "input": call.uncached_input_tokens,
        "cache_write": call.cache_write_tokens,
        "cache_read": call.cache_read_tokens,
        "output": call.output_tokens - (reasoning if apart else 0),
    }
    others = {name: count for name, count in (call.parts or {}).items() if name in _PARTS}
    for name, count in others.items():
        if name in PARENT_BUCKETS:
            left[PARENT_BUCKETS[name]] -= count
    rows = [
        ("Input", left["input"], "input"),
        ("Input, written to cache", left["cache_write"], "cache_write"),
        ("Input, read from cache", left["cache_read"], "cache_read"),
        ("Output", left["output"], "output"),
        *([("Reasoning", reasoning, "reasoning")] if apart else []),
        *((_PARTS[name], count, name) for name, count in others.items()),
    ]
    return [
        PricedBucket(
            name, count, price, None if price is None else price * count / _per(key), apart, key in UNITS
        )
        for name, count, key in rows
        for price in [_figure(call.price, key)]
    ]


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
}


def _per(bucket: str) -> Decimal:
    return Decimal(1) if bucket in UNITS else MILLION


def _figure(price: Mapping[str, Any] | None, key: str) -> Decimal | None:
    value = (price or {}).get(key)
    if not isinstance(value, str | int):
        return None
    try:
        figure = Decimal(value)
    except InvalidOperation:
        return None
    return figure if figure.is_finite() else None


def _ledger(call: GatewayCall) -> list[LedgerLine]:
    """The entries of the call's debit, in the order they were written."""
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


def _neighbours(mine: Sequence[ColumnElement[bool]], call: GatewayCall) -> tuple[str | None, str | None]:
    """The calls of the run before and after this one."""
    place = tuple_(GatewayCall.started_at, GatewayCall.request_id)
    here = tuple_(call.started_at, call.request_id)
    order = (GatewayCall.started_at, GatewayCall.request_id)
    base = select(GatewayCall.request_id).where(*mine).limit(1)
    before = base.where(place < here).order_by(*(column.desc() for column in order)).scalar_subquery()
    after = base.where(place > here).order_by(*order).scalar_subquery()
    row = db.session.execute(select(before.label("before"), after.label("after"))).one()
    return row.before, row.after
