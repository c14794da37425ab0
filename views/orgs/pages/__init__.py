"""Pages of organisations. Each module adds its views to the blueprint `orgs`."""

from views.orgs.pages import (
    audit_page,
    founding,
    invite_pages,
    joining,
    overview,
    removals,
    sso_settings,
    sso_sign_in,
    stopping,
    team,
)
from views.orgs.pages.orgs_blueprint import bp

__all__ = [
    "audit_page",
    "bp",
    "founding",
    "invite_pages",
    "joining",
    "overview",
    "removals",
    "sso_settings",
    "sso_sign_in",
    "stopping",
    "team",
]
