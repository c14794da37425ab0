"""Renders monthly statements as PDF: balances, movements by day and cause, payments, and data for verification."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from flask import url_for

from models import billing
from models.billing.payments.billing_details import billing_address, billing_snapshot
from models.billing.statements.statement import StatementLine
from models.billing.statements.statement_period import (
    CallSum,
    MoneyLine,
    StatementPeriod,
    daily_balances,
    money_of,
)
from models.core.cooperative import TimeSlices
from models.core.db import db
from models.ledger import Account
from models.ledger.heads import head_of_range
from models.orgs import Org
from views.billing.pages.billing_blueprint import user
from views.billing.pages.pdf_layout import (
    INK,
    LINE_HEIGHT,
    QUIET,
    Rows,
    blank_pdf,
    paragraph,
    rule,
    side_by_side,
    style,
    value_rows,
)
from views.usage.pages import KINDS
from views.web import format
from views.web.guards import settings

if TYPE_CHECKING:
    from fpdf import FPDF

MODELS_A_DAY = 6
PAYMENTS = 100
ROW = LINE_HEIGHT


@dataclass(frozen=True, slots=True)
class DayLine:
    """A cause and its signed credits; or, in bold, a day with their sum and the balance at its end."""

    name: str
    amount: int
    balance: int | None = None


def monthly_pdf(account: Account, period: StatementPeriod, moment: datetime) -> bytes:
    """The PDF of a month's statement as of `moment`. Lists at most 300 movements other than calls, and 100 payments;
    further ones are summed. Calls are summed by day and model."""
    until = min(period.last, moment.astimezone(UTC).date())
    title = f"Statement for {format.month(period.first)}"
    pdf = blank_pdf(title, numbered=True)
    paragraph(pdf, title, 22, bold=True)
    so_far = f", so far, at {format.moment(moment)}" if until < period.last else ""
    paragraph(pdf, f"{_day(period.first)} to {_day(until)}, UTC{so_far}", 9, colour=QUIET)
    paragraph(pdf, "Balances and movements are in credits. 1 credit is 1 US cent.", 9, colour=QUIET)
    if billing.test_mode():
        paragraph(pdf, "Test payments: no money moved.", 9, bold=True)
    pdf.ln(8)
    side_by_side(pdf, ("From", _seller()), ("For", _holder(account)))
    pdf.ln(8)
    value_rows(pdf, [(f"Opening balance, {_day(period.first)}", _credits(period.opening.balance))], bold=True)
    rule(pdf)
    value_rows(pdf, summary_rows(period))
    rule(pdf)
    value_rows(pdf, [(f"Closing balance, {_day(until)}", _credits(period.closing.balance))], bold=True)
    _payments(pdf, money_of(account.id, period))
    _movements(pdf, account.id, period)
    _verification(pdf, account.id, period)
    return bytes(pdf.output())


def summary_rows(period: StatementPeriod) -> Rows:
    """The sums between opening and closing balance; the values add up to the change."""
    names = {
        "purchases": "Bought",
        "grants": "Granted",
        "expiries": "Expired",
        "refunds": "Taken back by refunds, disputes or the operator",
        "debt": "Debt repaid",
    }
    sums = [(names[name], period.movements[name].amount) for name in names if name in period.movements]
    calls, charges = period.calls, period.charges
    sums.insert(2 if len(sums) > 1 else len(sums), (f"Calls ({format.number(calls.count)})", calls.amount))
    if charges.count:
        sums.append((f"Other charges ({format.number(charges.count)})", charges.amount))
    return [(name, _signed(amount)) for name, amount in sums if amount or name.startswith("Calls")]


def day_lines(account_id: str, period: StatementPeriod) -> Iterator[DayLine]:
    """Each day with movements, followed by its causes; then the sum of unlisted movements. The days' sums and this sum
    add up to the change of the month."""
    debits: dict[date, list[CallSum]] = defaultdict(list)
    for each in period.debits:
        debits[each.day].append(each)
    changes: dict[date, list[StatementLine]] = defaultdict(list)
    for line in period.changes:
        changes[max(line.created_at.astimezone(UTC).date(), period.first)].append(line)
    days = sorted(debits.keys() | changes.keys())
    for day, balance in zip(days, daily_balances(account_id, days), strict=True):
        causes = [DayLine(_name(line), line.amount) for line in changes[day]] + _debits(debits[day])
        yield DayLine(_day(day), sum(each.amount for each in causes), balance)
        yield from causes
    if period.unlisted.count:
        yield DayLine(
            f"{format.number(period.unlisted.count)} more movements; the CSV lists all",
            period.unlisted.amount,
        )


def _debits(sums: Sequence[CallSum]) -> list[DayLine]:
    """The calls of a day by model, with only the six most expensive models listed individually, and the other charges."""
    calls = [each for each in sums if each.calls]
    lines = [
        DayLine(f"{each.model or 'Calls'}, {_calls(each.count)}", each.amount)
        for each in calls[:MODELS_A_DAY]
    ]
    if rest := calls[MODELS_A_DAY:]:
        count = sum(each.count for each in rest)
        lines.append(DayLine(f"{len(rest)} other models, {_calls(count)}", sum(each.amount for each in rest)))
    return lines + [
        DayLine(f"Other charges, {format.number(each.count)}", each.amount) for each in sums if not each.calls
    ]


def _calls(count: int) -> str:
    return f"{format.number(count)} call{'' if count == 1 else 's'}"


def _name(line: StatementLine) -> str:
    """The text of a movement; purchases are named by their price."""
    name = line.description or (KINDS[line.grant_type][0] if line.grant_type in KINDS else "Grant")
    if line.movement == "purchases" and line.amount_cents is not None:
        return f"Purchase, {format.cents(line.amount_cents, line.currency or 'usd')}"
    reasons = {"refund": "Refund", "dispute": "Dispute", "revocation": "Revoked"}
    before = {
        "expiries": "Expired",
        "debt": "Debt repaid" if line.amount > 0 else "Used to repay debt",
        "refunds": f"{reasons.get(line.cause, 'Taken back')}{', given back' if line.amount > 0 else ''}",
    }.get(line.movement)
    return f"{before}: {name}" if before else name


def _payments(pdf: "FPDF", lines: Sequence[MoneyLine]) -> None:
    if not lines:
        return
    _section(pdf, "Payments", "Credits", "Money")
    for line in lines[:PAYMENTS]:
        credits = format.number(line.credits) if line.credits is not None else ""
        _row(
            pdf,
            f"{format.date(line.at)}: {line.name} {line.id}",
            credits,
            format.cents(line.cents, line.currency),
        )
    if rest := lines[PAYMENTS:]:
        for currency, cents in _money(rest).items():
            _row(pdf, f"{format.number(len(rest))} more", "", format.cents(cents, currency))
    rule(pdf)
    for currency, cents in _money(lines).items():
        _row(pdf, "Paid, less refunds and disputes", "", format.cents(cents, currency), bold=True)


def _money(lines: Sequence[MoneyLine]) -> Counter[str]:
    sums = Counter[str]()
    for line in lines:
        sums[line.currency] += line.cents
    return sums


def _movements(pdf: "FPDF", account_id: str, period: StatementPeriod) -> None:
    _section(pdf, "Movements by day", "Credits", "Balance")
    slices, empty = TimeSlices(), True
    for line in day_lines(account_id, period):
        empty = False
        balance = "" if line.balance is None else _credits(line.balance)
        if balance:
            pdf.ln(1.2)
            if pdf.will_page_break(ROW * 2):  # keeps a day together with its first cause
                pdf.add_page()
        _row(pdf, line.name, _signed(line.amount), balance, bold=bool(balance))
        slices.pause()
    if empty:
        _row(pdf, "Nothing was added or spent in this month.", "", "")


def _verification(pdf: "FPDF", account_id: str, period: StatementPeriod) -> None:
    _section(pdf, "Verification", "", "")
    last = period.closing
    if not last.id:
        _row(pdf, "The account had no entries yet.", "", "")
        return
    lines = [
        ("Last entry", format.number(last.id)),
        ("Its hash", last.hash),
        ("Hash before the first entry", period.opening.hash),
    ]
    if found := head_of_range(account_id, period.opening.id + 1, last.id):
        head, entry = found
        lines.append(
            (f"Head recorded on {_day(head.day)}, contains entry {format.number(entry)}", head.hash.hex())
        )
    for name, value in lines:
        if pdf.will_page_break(ROW * 2):
            pdf.add_page()
        paragraph(pdf, name, 8.5, colour=QUIET)
        paragraph(pdf, value, 8.5)
        pdf.ln(1)
    days: dict[str, Any] = {"from": str(period.first), "to": str(period.last)}
    csv = settings().base_url + url_for("billing.statement_file", **days)
    page = settings().base_url + url_for("ledger.verify")
    how = f"Download the same days as CSV and upload the file to {page}: its closing line carries the hash of the last entry."
    paragraph(pdf, f"{how} {csv}", 8.5, colour=QUIET)


def _section(pdf: "FPDF", title: str, middle: str, right: str) -> None:
    pdf.ln(8)
    if pdf.will_page_break(ROW * 5):
        pdf.add_page()
    style(pdf, 12, True, INK)
    pdf.cell(pdf.epw * 0.6, ROW + 1, title)
    style(pdf, 8.5, False, QUIET)
    pdf.cell(pdf.epw * 0.2, ROW + 1, middle, align="R")
    pdf.cell(pdf.epw * 0.2, ROW + 1, right, align="R", new_x="LMARGIN", new_y="NEXT")
    rule(pdf)


def _row(pdf: "FPDF", name: str, middle: str, right: str, *, bold: bool = False) -> None:
    """One line; a name that is too long is truncated."""
    style(pdf, 9, bold, INK)
    width = pdf.epw * 0.6 - 4
    if pdf.get_string_width(name) > width:
        while name and pdf.get_string_width(name + "…") > width:
            name = name[:-1]
        name += "…"
    pdf.cell(pdf.epw * 0.6, ROW, name)
    pdf.cell(pdf.epw * 0.2, ROW, middle, align="R")
    pdf.cell(pdf.epw * 0.2, ROW, right, align="R", new_x="LMARGIN", new_y="NEXT")


def _seller() -> list[str]:
    return ["Stoa", *(part for part in (settings().base_url, settings().stoa_support_email) if part)]


def _holder(account: Account) -> list[str]:
    if account.org_id:
        org = db.session.get(Org, account.org_id)
        return [org.name if org else account.org_id]
    details = billing_address(billing_snapshot(account.id))
    return [*(details.lines() if details else []), user().email or ""]


def _day(day: date) -> str:
    return format.day(day)


def _credits(amount: int) -> str:
    return format.credits(amount)


def _signed(amount: int) -> str:
    return f"{'+' if amount > 0 else ''}{format.credits(amount)}"
