"""`/admin/prices`: imports of prices: proposed, compared, tried on last month's calls, approved or rejected."""

from flask import current_app, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.core.errors import Invalid
from models.gateway import price_imports
from models.gateway.model_catalogue import BUCKETS, UNIT_NAMES
from models.gateway.price_comparison import TRIED_DAYS, compare, dry_run
from views.admin.pages.admin_blueprint import bp, operating_user
from views.gateway.api.model_calls import gateway
from views.web.guards import admin_required, audit, limiter
from views.web.htmx import render, see_other, toast

SHOWN = 200
"""Changed models that the page of an import lists."""


@bp.get("/prices")
@admin_required
def price_list() -> ResponseReturnValue:
    """The newest imports of prices, and the form for another."""
    return _list_page()


@bp.post("/prices")
@admin_required
@limiter.limit("30 per minute")
def propose_prices() -> ResponseReturnValue:
    """Propose the prices of a file. Form: `file`. Bad files: 422."""
    file = request.files.get("file")
    try:
        if file is None or not file.filename:
            raise Invalid("Choose a file.")
        raw = file.stream.read(price_imports.MAX_BYTES + 1)
        entries, source = price_imports.read_prices(raw, file.filename.replace("\0", ""))
    except Invalid as error:
        return _list_page(error.message)
    proposal = price_imports.propose(entries, source, operating_user().email)
    after = {"source": proposal.source, "models": len(entries)}
    audit("prices.proposed", str(proposal.id), user=operating_user(), after=after)
    db.session.commit()
    return see_other(url_for(".price_import", id=proposal.id))


@bp.get("/prices/<int:id>")
@admin_required
def price_import(id: int) -> ResponseReturnValue:
    """One import: what it changes, and what last month's calls would have cost."""
    gate = gateway(current_app)
    proposal = price_imports.find_import(id)
    open_ = proposal.state == "proposed"
    found = compare(gate.routes, proposal) if open_ else None
    return render(
        "admin/price_import.html",
        each=proposal,
        found=found,
        shown=found.changes[:SHOWN] if found else [],
        tried=dry_run(gate.routes, found.changes, gate.margin, now()) if found else None,
        days=TRIED_DAYS,
        names=BUCKETS | UNIT_NAMES,
    )


@bp.post("/prices/<int:id>/approval")
@admin_required
@limiter.limit("30 per minute")
def approve_prices(id: int) -> ResponseReturnValue:
    """Bring an import into force on all workers at once."""
    approved = price_imports.approve(id, operating_user().email, now())
    after = {"effective_at": approved.effective_at and approved.effective_at.isoformat()}
    audit("prices.approved", str(id), user=operating_user(), after=after)
    db.session.commit()
    toast(f"Import {id} is approved.")
    return see_other(url_for(".price_import", id=id))


@bp.post("/prices/<int:id>/rejection")
@admin_required
@limiter.limit("30 per minute")
def reject_prices(id: int) -> ResponseReturnValue:
    """Close an import without effect."""
    price_imports.reject(id, operating_user().email, now())
    audit("prices.rejected", str(id), user=operating_user())
    db.session.commit()
    toast(f"Import {id} is rejected.")
    return see_other(url_for(".price_list"))


def _list_page(error: str = "") -> ResponseReturnValue:
    return render(
        "admin/prices.html",
        imports=price_imports.price_imports(),
        error=error,
        status=422 if error else 200,
    )
