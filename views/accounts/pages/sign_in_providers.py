"""The outside providers of this server, as its settings name them."""

from typing import NamedTuple
from urllib.parse import urlsplit

from views.web.guards import settings


class SignInProvider(NamedTuple):
    """A configured way to sign in: its id in addresses, its name on buttons, its icon, its protocol."""

    id: str
    name: str
    icon: str
    type: str


def name_of(provider: str) -> str:
    """The name on the provider's button; its id when it is configured no longer."""
    return next((each.name for each in configured() if each.id == provider), provider)


def configured() -> list[SignInProvider]:
    """The providers that can be used, in the order of their buttons."""
    s = settings()
    issuer = urlsplit(s.oidc_issuer or "").hostname or ""
    known = (
        (s.oidc_issuer, SignInProvider("oidc", issuer, "key", "oauth")),
        (s.github_client_id, SignInProvider("github", "GitHub", "branch", "oauth")),
        (s.google_client_id, SignInProvider("google", "Google", "user", "oauth")),
    )
    return [provider for is_set, provider in known if is_set]
