"""`/verify`: check an exported statement against itself and against the recorded heads of the ledger."""

from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from models.core.cooperative import TimeSlices
from models.core.db import db
from models.ledger.heads import heads_csv, recent_heads, recorded_hashes
from models.ledger.statement_check import StatementCheck, check_statement, decoded
from views.web import format
from views.web.body import allow_anonymous
from views.web.guards import limiter, login_required
from views.web.htmx import render

bp = Blueprint("ledger", __name__)

MAX_MB = 4
"""Of a file: some 15,000 entries, which take about half a second. `flask billing verify` takes any."""

HEADS_SHOWN = 14

KINDS = {
    "grant": "Granted",
    "debit": "Charged",
    "expiry": "Expired",
    "revocation": "Revoked",
    "reinstatement": "Given back",
    "debt_cleared": "Debt cleared",
}
"""Names of the kinds of entries."""


@bp.get("/verify")
def verify() -> ResponseReturnValue:
    """The form, and the latest recorded heads."""
    return _page()


@bp.post("/verify")
@limiter.limit("20/minute;200/hour")
@allow_anonymous(MAX_MB << 20)
def verify_file() -> ResponseReturnValue:
    """Check the uploaded statement and show what was found. 422 without a file of text."""
    file = request.files.get("statement")
    if file is None or not file.filename:
        return _page(error="Choose a statement to verify.", status=422)
    raw = file.stream.read((MAX_MB << 20) + 1)
    if len(raw) > MAX_MB << 20:
        return _page(error=f"The file is larger than {MAX_MB} MB. Export a shorter period.", status=422)
    try:
        lines = decoded(raw)
    except UnicodeDecodeError:
        return _page(error="This is not a CSV file in UTF-8.", status=422)
    check = check_statement(lines, TimeSlices().pause)
    return _page(check=check, heads=_compared(check))


@bp.get("/verify/heads.csv")
@login_required
def heads() -> ResponseReturnValue:
    """All recorded heads as CSV, oldest first: one line a day."""
    response = Response(heads_csv(), mimetype="text/csv")
    response.headers["Content-Disposition"] = 'attachment; filename="stoa-ledger-heads.csv"'
    response.headers["Cache-Control"] = "no-store"
    return response


def _page(
    *, check: StatementCheck | None = None, heads: Any = (), error: str | None = None, status: int = 200
) -> Response:
    recorded = recent_heads(HEADS_SHOWN)
    db.session.commit()
    return render(
        "ledger/verify.html",
        partial="ledger/_verification.html",
        status=status,
        check=check,
        heads=heads,
        error=error,
        recorded=recorded,
        max_mb=MAX_MB,
        summary=_facts(check) if check else None,
    )


def _facts(check: StatementCheck) -> list[tuple[str, str]]:
    return [
        ("Account", check.account or "–"),
        ("Entries", format.credits(check.entries)),
        ("From", check.first_at[:10] or "–"),
        ("To", check.last_at[:10] or "–"),
        ("Opening balance", format.credits(check.opening_balance)),
        *((KINDS.get(kind, kind), format.credits(amount)) for kind, amount in sorted(check.kinds.items())),
    ]


def _compared(check: StatementCheck) -> list[tuple[str, str, str]]:
    """The latest heads of the statement, newest first: date, hash, and what this server has recorded of that day."""
    latest = check.heads[-HEADS_SHOWN:][::-1]
    recorded = recorded_hashes([head.date for head in latest])
    states = {True: "recorded", False: "differs", None: "unknown"}
    return [
        (head.date, head.hash, states[None if (own := recorded.get(head.date)) is None else own == head.hash])
        for head in latest
    ]
