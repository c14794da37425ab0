"""The sign-in providers configured on this server."""

from typing import NamedTuple
from urllib.parse import urlsplit

from views.web.guards import settings

NAMES = {"github": "GitHub", "google": "Google"}


class SignInProvider(NamedTuple):
    """A sign-in method: id in URLs, name on buttons, icon, protocol."""

    id: str
    name: str
    icon: str
    type: str


def name_of(provider: str) -> str:
    """Return the provider's display name, or its id if it is no longer configured."""
    return next((each.name for each in configured() if each.id == provider), NAMES.get(provider, provider))


def configured() -> list[SignInProvider]:
    """Return the configured providers in the order of their buttons."""
    s = settings()
    issuer = urlsplit(s.oidc_issuer or "").hostname or ""
    known = (
        (s.oidc_issuer, SignInProvider("oidc", issuer, "key", "oauth")),
        (s.github_client_id, SignInProvider("github", NAMES["github"], "branch", "oauth")),
        (s.google_client_id, SignInProvider("google", NAMES["google"], "user", "oauth")),
    )
    return [provider for is_set, provider in known if is_set]
