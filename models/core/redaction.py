"""Masks secrets and personal data in text for the log and for operators."""

import re
from collections.abc import Iterable

SECRETS = re.compile(
    r"(?P<key>\b(?:cb-pat|sk|rk|pk|whsec|gh[opsu]|github_pat)[-_])[A-Za-z0-9_\-]{8,}"
    r"|(?P<google>\bAIza)[A-Za-z0-9_\-]{20,}"
    r"|(?P<bearer>\bBearer\s+)[^\s\"',;]{8,}"
    r"|(?P<url>://[^\s:/@]*:)[^\s/@]+(?=@)",
    re.IGNORECASE,
)
PERSONAL = re.compile(
    r"(?P<link>/(?:login/link|billing/confirmations|profile/email|shared)/)[\w\-]+"
    r"|[\w.+\-]{1,64}@[\w\-.]{1,255}\.[a-z]{2,}\b",
    re.IGNORECASE,
)
"""Sign-in links, links that confirm an address, links to shared runs, and e-mail addresses (of an overlong one, its end)."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Mask tokens, provider keys and passwords in URLs."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return SECRETS.sub(lambda match: f"{next(group for group in match.groups() if group)}***", text)


def without_personal(text: str) -> str:
    """Mask e-mail addresses and one-time links."""
    return PERSONAL.sub(lambda match: f"{match['link'] or ''}***", text)
