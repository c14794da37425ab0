"""The statement: the profile tab, its CSV, the explanation of a day, the page of a grant, and monthly statements as PDF."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from flask import Response, g, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models import billing
from models.billing.statements.grant_history import grant_history
from models.billing.statements.statement import (
    StatementLine,
    filtered_csv,
    live_holds_of,
    statement_page,
    statement_totals,
    upcoming_expiries,
)
from models.billing.statements.statement_filter import StatementFilter, parse_day, parse_filter
from models.billing.statements.statement_period import (
    StatementPeriod,
    daily_balances,
    largest_calls,
    statement_month,
    statement_months,
    statement_period,
)
from models.core.db import db, midnight, now, read_snapshot
from models.core.errors import Invalid, NotFound
from models.ledger import Account, ensure_quota, write_off_expired
from models.orgs import can
from models.usage.statement_export import statement_csv, statement_range
from views.accounts.pages.profile import tab
from views.billing.pages.billing_blueprint import bp, organisation, page_account
from views.billing.pages.statement_pdf import monthly_pdf
from views.runs.pages import call_address
from views.usage.pages import KINDS
from views.web import format
from views.web.charts import Chart, ChartSeries, line_chart
from views.web.guards import current_account, limiter, login_required, settings
from views.web.htmx import page_balance, render, wants_fragment
from views.web.viewer_locale import plain_formats, viewer_zone

DAYS = 30
EXPIRIES, HOLDS, LARGEST, MODELS = 5, 10, 10, 20
RECENT_MONTHS = 12
FIELDS = ("kind", "from", "to", "least", "q")

MOVEMENT_NAMES = {
    "": "Everything",
    "calls": "Calls",
    "purchases": "Purchases",
    "grants": "Grants",
    "refunds": "Refunds and disputes",
    "expiries": "Expiries",
    "charges": "Other charges",
    "debt": "Debt repaid",
    "unspent": "Everything except spending",
}
"""The choices of the filter."""


GRANT_TABS = {
    "referral": ("Referrals", "referrals"),
    "referral_legacy": ("Referrals", "referrals"),
    "plan": ("Plan", "plan"),
    "subscription": ("Plan", "plan"),
}
"""By grant type: name and profile tab of its source."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The cause of an entry: a text, its URL (None if it has no page), and an id to show if it has no name."""

    text: str
    href: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class StatementForm:
    """The filter form: values as entered, the resulting filter, and errors by field."""

    values: Mapping[str, str]
    filter: StatementFilter
    errors: Mapping[str, str]

    @classmethod
    def of_request(cls) -> "StatementForm":
        """Read the query. With errors the filter is empty."""
        values = {name: request.args.get(name, "").strip() for name in FIELDS}
        try:
            return cls(values, parse_filter(values, viewer_zone()), {})
        except Invalid as invalid:
            return cls(values, StatementFilter(zone=viewer_zone()), invalid.fields)

    def args(self, **changes: str) -> dict[str, Any]:
        """The query of these filters with changes; empty values are left out."""
        return {name: value for name, value in {**self.values, **changes}.items() if value}

    def href(self, **changes: str) -> str:
        """The URL of the page with changed filters."""
        return statement_home(**self.args(**changes))

    @property
    def date_types(self) -> dict[str, str]:
        """Input types of the date fields: "text" for an invalid date, which a browser's date input would drop."""
        texts = {name: self.values[name] for name in ("from", "to")}
        return {name: "date" if not text or parse_day(text) else "text" for name, text in texts.items()}

    @property
    def chips(self) -> list[tuple[str, str]]:
        """Each active filter as text, with the URL of the page without it."""
        values, texts = (
            self.values,
            {"from": "From {}", "to": "To {}", "least": "At least {} credits", "q": "“{}”"},
        )
        chips = [(MOVEMENT_NAMES[values["kind"]], self.href(kind=""))] if values["kind"] else []
        return chips + [
            (text.format(values[name]), self.href(**{name: ""}))
            for name, text in texts.items()
            if values[name]
        ]


@tab("statement")
@login_required
def statement() -> ResponseReturnValue:
    """`/profile?tab=statement`: balance, expiries and ledger entries, newest first, in keyset pages.

    Query: `kind`, `from`, `to`, `least`, `q`, `before` (an entry id). htmx gets the list, or after `before` only its rows.
    Runs a due quota cycle and writes off expired grants first, so that the entries add up to the balance. Invalid
    filters: 422 with the input kept.
    """
    return _page()


@bp.get("/orgs/<slug>/billing/statement")
@login_required
def organisation_statement() -> ResponseReturnValue:
    """The statement of an organisation, for its owners and admins."""
    return _page()


def statement_account() -> Account:
    """The account of the page: the organisation in the URL, else the account of the session, which may belong to an
    organisation too. Raises Forbidden, NotFound."""
    return page_account() if g.get("billing_slug") else current_account()


def statement_home(**query: Any) -> str:
    """The URL of the statement of the page's account."""
    if g.get("billing_slug"):
        return url_for("billing.organisation_statement", **query)
    return url_for("profile.profile", tab="statement", **query)


bp.add_app_template_global(statement_home)


def _page() -> ResponseReturnValue:
    account, moment, form = statement_account(), now(), StatementForm.of_request()
    before = _entry_id(request.args.get("before"))
    ensure_quota(account, settings().stoa_free_credits, now=moment)
    write_off_expired(account, now=moment)
    db.session.commit()
    read_snapshot()
    context = _list_context(account, form, before)
    if not wants_fragment():
        context |= _page_context(account, moment)
    return render(
        "billing/statement.html",
        partial="billing/_statement_rows.html" if before is not None else "billing/_statement_list.html",
        status=422 if form.errors else 200,
        **context,
    )


@bp.get("/profile/statement")
@login_required
def statement_address() -> ResponseReturnValue:
    """The former address of the statement; keeps the query."""
    args: dict[str, Any] = request.args.to_dict()
    if args.pop("show", "") == "in":
        args["kind"] = "unspent"
    return redirect(url_for("profile.profile", **{**args, "tab": "statement"}))


@bp.get("/profile/statement.csv")
@bp.get("/orgs/<slug>/billing/statement.csv")
@login_required
def statement_file() -> ResponseReturnValue:
    """Stream the filtered entries as CSV. Filtered by days only, it is complete and `/verify` can check it. Raises
    Invalid (422)."""
    account_id, filter = statement_account().id, parse_filter(request.args, viewer_zone())
    days = f"{f'{filter.first}-to-' if filter.first else ''}{filter.last or now().date()}"
    if filter.whole:
        first, last = (str(day) if day else None for day in (filter.first, filter.last))
        range = statement_range(account_id, first, last, filter.zone)
        text, name = statement_csv(range), f"stoa-statement-{days}.csv"
    else:
        text, name = filtered_csv(account_id, filter), f"stoa-statement-filtered-{days}.csv"
    db.session.commit()
    response = Response(text, mimetype="text/csv")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/profile/statement/<month>.pdf")
@bp.get("/orgs/<slug>/billing/statement/<month>.pdf")
@login_required
@limiter.limit("30 per minute")
def statement_pdf(month: str) -> ResponseReturnValue:
    """The statement of a month such as `2026-11` as PDF; of the current month so far. Raises NotFound."""
    account, moment = statement_account(), now()
    write_off_expired(account, now=moment)
    db.session.commit()
    read_snapshot()
    with plain_formats():
        file = monthly_pdf(account, statement_month(account.id, month, moment), moment)
    response = Response(file, mimetype="application/pdf")
    response.headers["Content-Disposition"] = f'inline; filename="stoa-statement-{month}.pdf"'
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/profile/statement/<day>")
@bp.get("/orgs/<slug>/billing/statement/<day>")
@login_required
def statement_day(day: str) -> ResponseReturnValue:
    """Explain the change of the balance on a day of the viewer's clock such as `2026-11-20`: sentences, causes and the largest calls.
    Raises NotFound for a future day."""
    account, today = statement_account(), now().astimezone(viewer_zone()).date()
    found = parse_day(day)
    if found is None or found > today:
        raise NotFound("There is no such day.")
    write_off_expired(account)
    db.session.commit()
    read_snapshot()
    period = statement_period(account.id, found, found, viewer_zone())
    models = period.by_model()
    return render(
        "billing/statement_day.html",
        day=found,
        period=period,
        sentences=day_sentences(period),
        models=[(each, _entries(found, kind="calls", q=each.model or "")) for each in models[:MODELS]],
        other_models=models[MODELS:],
        changes=[(line, cause_of(line, account)) for line in period.changes],
        largest=[
            (call, _call_href(call.run_id, call.request_id))
            for call in largest_calls(account.id, period, limit=LARGEST)
        ],
        before=found - timedelta(days=1),
        after=found + timedelta(days=1) if found < today else None,
        entries=_entries(found),
        csv=url_for("billing.statement_file", **_days(found)),
    )


@bp.get("/profile/statement/grants/<path:id>")
@bp.get("/orgs/<slug>/billing/statement/grants/<path:id>")
@login_required
def grant_page(id: str) -> ResponseReturnValue:
    """A grant with its source and changes. Raises NotFound."""
    account = statement_account()
    write_off_expired(account)
    db.session.commit()
    read_snapshot()
    history = grant_history(account, id)
    sources = []
    if history.purchase and _has_purchase_pages(account):
        sources.append(("Purchase", url_for("billing.purchase", id=history.purchase.id)))
    name, of_tab = GRANT_TABS.get(history.grant.type, ("", ""))
    if of_tab and account.user_id and (of_tab != "plan" or billing.enabled()):
        sources.append((name, url_for("profile.profile", tab=of_tab)))
    return render("billing/grant.html", history=history, kinds=KINDS, sources=sources)


def cause_of(line: StatementLine, account: Account) -> Cause:
    """The cause of an entry as text, with the page of its call, purchase or grant."""
    if line.kind == "debit":
        if line.request_id:
            return Cause(line.model or "Call", _call_href(line.run_id, line.request_id))
        return Cause("Charge", code=line.cause)
    name = grant_name(line)
    purchase = None
    if line.purchase_id and _has_purchase_pages(account):
        purchase = url_for("billing.purchase", id=line.purchase_id)
    grant = url_for("billing.grant_page", id=line.operation_id) if line.grant_type else None
    if line.kind == "grant":
        return Cause(name, purchase or grant)
    if line.kind == "expiry":
        return Cause(f"Expired: {name}", grant)
    if line.kind == "debt_cleared":
        return Cause(f"Debt repaid: {name}" if line.amount > 0 else f"Used to repay debt: {name}", grant)
    if line.kind == "reinstatement":
        reasons = {"refund": "Given back after a refund", "dispute": "Given back after a dispute"}
        return Cause(f"{reasons.get(line.cause, 'Given back')}: {name}", purchase or grant)
    reasons = {"refund": "Taken back by a refund", "dispute": "Taken back by a dispute"}
    return Cause(f"{reasons.get(line.cause, 'Revoked by the operator')}: {name}", purchase or grant)


def _has_purchase_pages(account: Account) -> bool:
    """Whether the purchases have pages: an organisation's are shown to its owners and admins, not to its keys."""
    return bool(account.user_id or g.get("billing_slug"))


def _call_href(run_id: str | None, request_id: str) -> str | None:
    """The URL of a call; None for those who may not open the calls of an organisation."""
    if g.get("billing_slug") and not can(g.membership, "read_messages"):
        return None
    return call_address(run_id, request_id)


def grant_name(line: StatementLine) -> str:
    """The display name of a grant."""
    if line.description:
        return line.description
    return KINDS[line.grant_type][0] if line.grant_type in KINDS else "Grant"


def day_sentences(period: StatementPeriod) -> list[str]:
    """Sentences that explain a day; each number is a sum of entries."""
    opening, closing, change = period.opening.balance, period.closing.balance, period.change
    ends = f"from {format.credits(opening)} to {format.credits(closing)}"
    if not period.debits and not period.movements:
        return [f"Nothing was added or spent. Your balance stayed at {_credits(opening)}."]
    moved = f"{'rose' if change > 0 else 'fell'} by {_credits(abs(change))}, {ends}"
    sentences = [
        f"Your balance {moved}." if change else f"Your balance ended where it began, at {_credits(opening)}."
    ]
    models, calls, charges = period.by_model(), period.calls, period.charges
    if calls.count:
        cost = f"{_count(calls.count, 'call')} cost {_credits(-calls.amount)}."
        top = models[0]
        most = f" Most went to {top.model}: {_credits(-top.amount)} for {_count(top.count, 'call')}."
        sentences.append(cost + (most if len(models) > 1 and top.model else ""))
    if charges.count:
        sentences.append(f"{_count(charges.count, 'other charge')} cost {_credits(-charges.amount)}.")
    texts = {
        "purchases": ("You bought {} in {}.", "purchase", 1),
        "grants": ("{} came with {}.", "grant", 1),
        "expiries": ("{} expired unused, of {}.", "grant", -1),
        "refunds": ("{} were taken back by refunds, disputes or the operator, in {}.", "movement", -1),
    }
    for name, (text, noun, sign) in texts.items():
        found = period.movements.get(name)
        if found is None:
            continue
        if name == "refunds" and found.amount > 0:
            text, sign = "{} were given back after disputes or refunds, in {}.", 1
        sentences.append(text.format(_credits(sign * found.amount), _count(found.count, noun)))
    repaid = sum(line.amount for line in period.changes if line.movement == "debt" and line.amount > 0)
    if repaid:
        sentences.append(f"New credits repaid {_credits(repaid)} of debt, which does not change the balance.")
    return sentences


def _entries(day: date, **more: Any) -> str:
    """The URL of a day's entries on the statement."""
    return statement_home(**_days(day), **more)


def _days(day: date) -> dict[str, Any]:
    """The query of one day."""
    return {"from": str(day), "to": str(day)}


def _list_context(account: Account, form: StatementForm, before: int | None) -> dict[str, Any]:
    page = None if form.errors else statement_page(account.id, form.filter, before)
    more = None
    if page and page.more:
        more = statement_home(**form.args(), before=page.more)
    return {
        "form": form,
        "listing": page,
        "before": before,
        "more": more,
        "lines": [(line, _day_of(line), cause_of(line, account)) for line in page.lines] if page else [],
        "days": _day_addresses(page.lines if page else []),
        "kinds": KINDS,
        "csv": url_for("billing.statement_file", **form.args()),
        "organisation": organisation(),
    }


def _day_addresses(lines: Sequence[StatementLine]) -> dict[date, str]:
    """The URL of each day of the lines: few, because most lines of a page share a day."""
    days = {_day_of(line) for line in lines}
    return {day: url_for("billing.statement_day", day=str(day)) for day in days}


def _day_of(line: StatementLine) -> date:
    return line.created_at.astimezone(viewer_zone()).date()


def _page_context(account: Account, moment: datetime) -> dict[str, Any]:
    """Balance and its parts, chart, expiries, holds and months."""
    current, totals = page_balance(account, now=moment), statement_totals(account.id)
    days = [
        moment.astimezone(viewer_zone()).date() - timedelta(days=back) for back in range(DAYS - 1, -1, -1)
    ]
    months = statement_months(account.id, moment)
    return {
        "balance": current,
        "totals": totals,
        "chart": _chart(account.id, days, moment) if months else None,
        "day_links": [url_for("billing.statement_day", day=str(day)) for day in days],
        "expiries": upcoming_expiries(account.id, moment, limit=EXPIRIES),
        "holds": live_holds_of(account.id, moment, limit=HOLDS) if current.held else [],
        "action": statement_home().partition("?")[0],
        "movement_names": MOVEMENT_NAMES,
        "months": [_month(each, moment) for each in months[:RECENT_MONTHS]],
        "older_months": [_month(each, moment) for each in months[RECENT_MONTHS:]],
    }


def _month(month: date, moment: datetime) -> tuple[str, str]:
    """The name of a month and the URL of its statement."""
    current = f"{month:%Y-%m}" == f"{moment.astimezone(UTC):%Y-%m}"
    return f"{format.month(month)}{' so far' if current else ''}", url_for(
        "billing.statement_pdf", month=f"{month:%Y-%m}"
    )


def _chart(account_id: str, days: list[date], moment: datetime) -> Chart:
    zone = viewer_zone()
    series = ChartSeries("Balance at the end of the day", daily_balances(account_id, days, zone))
    return line_chart(
        [midnight(day, zone) for day in days], [series], unit="credits", now=moment, grain="day"
    )


def _entry_id(text: str | None) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise Invalid("Invalid statement page: 'before' must be an entry id")
    return int(text)


def _credits(amount: int) -> str:
    return _count(amount, "credit")


def _count(number: int, noun: str) -> str:
    return f"{format.credits(number)} {noun}{'' if abs(number) == 1 else 's'}"
