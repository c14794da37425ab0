"""Pages of organisations. Each module adds its views to the blueprint `orgs`."""

from views.orgs.pages import (
    audit_page,
    founding,
    invite_pages,
    joining,
    key_pages,
    org_alert_pages,
    org_usage_pages,
    overview,
    removals,
    repositories_page,
    service_account_pages,
    settings_page,
    sso_settings,
    sso_sign_in,
    switcher,
    team,
    team_pages,
)
from views.orgs.pages.orgs_blueprint import bp

__all__ = [
    "audit_page",
    "bp",
    "founding",
    "invite_pages",
    "joining",
    "key_pages",
    "org_alert_pages",
    "org_usage_pages",
    "overview",
    "removals",
    "repositories_page",
    "service_account_pages",
    "settings_page",
    "sso_settings",
    "sso_sign_in",
    "switcher",
    "team",
    "team_pages",
]
