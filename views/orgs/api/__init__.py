"""JSON routes of organisations (contract 2.8). Each module adds its views to the blueprint `orgs_api`."""

from views.orgs.api import (
    alert_routes,
    audit_route,
    invite_routes,
    member_routes,
    org_key_routes,
    org_routes,
    repository_routes,
    service_account_routes,
    team_routes,
    usage_routes,
)
from views.orgs.api.orgs_api_blueprint import bp

__all__ = [
    "alert_routes",
    "audit_route",
    "bp",
    "invite_routes",
    "member_routes",
    "org_key_routes",
    "org_routes",
    "repository_routes",
    "service_account_routes",
    "team_routes",
    "usage_routes",
]
