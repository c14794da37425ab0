"""The blueprint of the pages of organisations. Links between them keep the organisation."""

from typing import Any

from flask import Blueprint, current_app, g, request

from models.orgs import can

bp = Blueprint("orgs", __name__)

KEPT = (
    "orgs.",
    "assistants.",
    "projects.",
    "provider_keys.",
    "runners.",
    "runs.",
    "usage.call",
    "usage.new_key",
    "credits.",
    "playground.",
    "threads.",
)
"""Endpoints, or how they begin, whose links stay with the organisation."""


@bp.app_url_defaults
def _keep_organisation(endpoint: str, values: dict[str, Any]) -> None:
    """Links from a page of an organisation to another one stay with the organisation."""
    org = g.get("org")
    if org is None or "slug" in values or not request or not endpoint.startswith(KEPT):
        return
    if current_app.url_map.is_endpoint_expecting(endpoint, "slug"):
        values["slug"] = org.slug


@bp.app_context_processor
def _org_context() -> dict[str, Any]:
    """Template context: `page_org`, the organisation of the page or None, and `org_can(capability)` of the viewer in it."""
    return {"page_org": g.get("org"), "org_can": _org_can}


def _org_can(capability: str) -> bool:
    return "membership" in g and can(g.membership, capability)
