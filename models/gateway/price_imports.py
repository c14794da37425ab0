"""Imports of prices: each is a proposal until an operator approves it, and then in force on all workers from one full minute on.

A price set in STOA_PRICES_FILE is preferred, one of an import follows, and the table of the release comes last.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, Identity, Index, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt, db, lock_name
from models.core.errors import Conflict, Invalid, NotFound
from models.core.settings import SettingsError
from models.gateway.approved_prices import scoped
from models.gateway.price_file import parse_price
from models.gateway.pricing import MILLION

NOTICE = timedelta(seconds=60)
"""The shortest time between approval and effect."""
REMOVE = {"remove": True}
"""The entry that ends the imported price of a model: the table of the release is in force again."""
MAX_MODELS, MAX_BYTES = 5_000, 5_000_000

OPENROUTER = "openrouter"
OPENROUTER_KEYS = {
    "prompt": "input",
    "completion": "output",
    "input_cache_read": "cached_input",
    "input_cache_write": "cache_write",
    "internal_reasoning": "reasoning",
    "audio": "audio_input",
    "request": "request",
    "web_search": "web_search",
}
"""Keys of OpenRouter's list of models, in dollars per token and per unit, and ours."""
LITELLM_KEYS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
}
"""Keys of LiteLLM's map of prices, in dollars per token, and ours."""
LITELLM_PROVIDERS = ("openai", "anthropic", "gemini")
_UNITS = ("request", "web_search")


class PriceImport(Base):
    """A proposal. `prices` has an entry for each model, as in STOA_PRICES_FILE with numbers as strings, or `REMOVE`. `result` has all imported
    prices in force from `effective_at` on: those of the approved imports before, and of this one."""

    __tablename__ = "price_import"
    __table_args__ = (
        CheckConstraint(
            "(state = ANY (ARRAY['proposed'::text, 'approved'::text, 'rejected'::text]))", name="state_known"
        ),
        CheckConstraint(
            "((state = 'approved'::text) = ((effective_at IS NOT NULL) AND (result IS NOT NULL)))",
            name="approved_whole",
        ),
        Index(
            "idx_price_import_effective",
            "effective_at",
            "id",
            postgresql_where=text("(state = 'approved'::text)"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    created_by: Mapped[str]
    source: Mapped[str]
    """The file's name; `openrouter` and a space before it for a list of OpenRouter, whose prices are for its own models only."""
    prices: Mapped[dict[str, Any]] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(server_default=text("'proposed'::text"))
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None]
    effective_at: Mapped[datetime | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    @property
    def table(self) -> str:
        """The price table of the one provider whose models these prices are for; empty: of any."""
        return OPENROUTER if self.source.startswith(f"{OPENROUTER} ") else ""

    def added_to(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """The prices in force after this import."""
        after = dict(before)
        for name, entry in self.prices.items():
            if not self.table:
                after.pop(scoped(OPENROUTER, name), None)
            key = scoped(self.table, name) if self.table else name
            if entry == REMOVE:
                after.pop(key, None)
            else:
                after[key] = entry
        return after


def read_prices(raw: bytes, file_name: str) -> tuple[dict[str, Any], str]:
    """The entries of a file, and the `source` of their import: STOA_PRICES_FILE's format (TOML or JSON), OpenRouter's list of models
    (`GET /api/v1/models`), or LiteLLM's map of prices. Raises Invalid."""
    if len(raw) > MAX_BYTES:
        raise Invalid(f"The file has more than {MAX_BYTES:,} bytes.")
    try:
        content = raw.decode("utf-8")
        toml = file_name.lower().endswith(".toml")
        table = (
            tomllib.loads(content, parse_float=Decimal) if toml else json.loads(content, parse_float=Decimal)
        )
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{file_name} is neither TOML nor JSON ({error}).") from None
    source = f"./{file_name}" if file_name.startswith(OPENROUTER) else file_name
    if isinstance(table, dict) and isinstance(table.get("data"), list):
        source = f"{OPENROUTER} {file_name}"
        table = dict(_openrouter_entries(table["data"]))
    elif isinstance(table, dict) and any(
        isinstance(each, dict) and "litellm_provider" in each for each in table.values()
    ):
        table = dict(_litellm_entries(table))
    if not isinstance(table, dict) or not table:
        raise Invalid(f"{file_name} must hold one table per model, or OpenRouter's list of models.")
    if len(table) > MAX_MODELS:
        raise Invalid(f"{file_name} has {len(table):,} models; the limit is {MAX_MODELS:,}.")
    entries = {str(name).strip().lower(): _checked(str(name).strip(), entry) for name, entry in table.items()}
    return entries, source


def _checked(name: str, entry: Any) -> dict[str, Any]:
    if isinstance(entry, dict) and (placed := {"provider", "upstream_model", "kind"} & set(entry)):
        raise Invalid(f"{min(placed)!r} of {name!r} belongs into STOA_PRICES_FILE: imports set prices only.")
    if not name or "\0" in name:
        raise Invalid("A model has no name.")
    if entry == REMOVE:
        return REMOVE
    try:
        parse_price(name, entry)
    except SettingsError as error:
        raise Invalid(str(error).removeprefix("STOA_PRICES_FILE: ")) from None
    stored: dict[str, Any] = _storable(entry)
    return stored


def _storable(value: Any) -> Any:
    """An entry as JSON, with its decimals as strings."""
    if isinstance(value, dict):
        return {str(key): _storable(each) for key, each in value.items()}
    return str(value) if isinstance(value, Decimal) else value


def _openrouter_entries(models: Iterable[Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Models with variable prices, which are negative in the list, are left out."""
    for each in models:
        listed = each.get("pricing") if isinstance(each, dict) else None
        if not isinstance(listed, dict) or not isinstance(each.get("id"), str):
            raise Invalid("The list of models has an entry without 'id' and 'pricing'.")
        entry = {}
        for key, ours in OPENROUTER_KEYS.items():
            if key not in listed:
                continue
            dollars = _number(each["id"], key, listed[key])
            if dollars or key in ("prompt", "completion"):
                entry[ours] = dollars if ours in _UNITS else dollars * MILLION
        if all(value >= 0 for value in entry.values()) and {"input", "output"} <= set(entry):
            yield each["id"], entry


def _litellm_entries(table: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Chat models of the vendors that this server calls itself."""
    for name, each in table.items():
        chats = isinstance(each, dict) and each.get("mode") == "chat"
        if not chats or each.get("litellm_provider") not in LITELLM_PROVIDERS:
            continue
        entry = {
            ours: _number(name, key, each[key]) * MILLION
            for key, ours in LITELLM_KEYS.items()
            if each.get(key) is not None
        }
        if {"input", "output"} <= set(entry):
            yield name, entry


def _number(model: str, key: str, value: Any) -> Decimal:
    try:
        return Decimal(str(value))
    except ArithmeticError:
        raise Invalid(f"The price {key!r} of {model!r} is not a number.") from None


def propose(entries: Mapping[str, Any], source: str, actor: str) -> PriceImport:
    """Keep a proposal; flushes."""
    proposal = PriceImport(prices=dict(entries), source=source[:300], created_by=actor)
    db.session.add(proposal)
    db.session.flush()
    return proposal


def price_imports(limit: int = 50) -> Sequence[PriceImport]:
    """The newest imports."""
    return db.session.scalars(select(PriceImport).order_by(PriceImport.id.desc()).limit(limit)).all()


def find_import(id: int) -> PriceImport:
    """The import with this id. Raises NotFound."""
    found = db.session.get(PriceImport, id) if 0 < id < 1 << 63 else None
    if found is None:
        raise NotFound("There is no such import of prices.")
    return found


def latest_proposal() -> PriceImport:
    """The newest proposal. Raises NotFound."""
    query = select(PriceImport).where(PriceImport.state == "proposed").order_by(PriceImport.id.desc())
    found = db.session.scalars(query.limit(1)).one_or_none()
    if found is None:
        raise NotFound("No import of prices waits for approval.")
    return found


def approve(id: int, actor: str, moment: datetime) -> PriceImport:
    """Bring a proposal into force, whole and on all workers at once, at the next full minute that is at least `NOTICE` away. Locks the
    approvals. Raises NotFound, Conflict; flushes."""
    proposal = _open_proposal(id)
    last = db.session.scalars(
        select(PriceImport)
        .where(PriceImport.state == "approved")
        .order_by(PriceImport.effective_at.desc(), PriceImport.id.desc())
        .limit(1)
    ).one_or_none()
    due = (moment + NOTICE).replace(second=0, microsecond=0) + timedelta(minutes=1)
    proposal.state, proposal.decided_at, proposal.decided_by = "approved", moment, actor
    proposal.effective_at = max(due, last.effective_at) if last and last.effective_at else due
    proposal.result = proposal.added_to((last and last.result) or {})
    db.session.flush()
    return proposal


def reject(id: int, actor: str, moment: datetime) -> PriceImport:
    """Close a proposal without effect. Raises NotFound, Conflict; flushes."""
    proposal = _open_proposal(id)
    proposal.state, proposal.decided_at, proposal.decided_by = "rejected", moment, actor
    db.session.flush()
    return proposal


def _open_proposal(id: int) -> PriceImport:
    # one approval at a time: each builds on the result of the one before
    lock_name("approvals of prices")
    proposal = find_import(id)
    db.session.refresh(proposal)
    if proposal.state != "proposed":
        raise Conflict(f"This import was {proposal.state} by {proposal.decided_by}.")
    return proposal
