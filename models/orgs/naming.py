"""Names and slugs of organisations (contract 3.9)."""

import re

MIN_NAME, MAX_NAME, MAX_DESCRIPTION = 3, 50, 1000
RESERVED_SLUGS = frozenset({"new", "slug"})
"""Words of our own URLs."""

_NAME = re.compile(r"[a-zA-Z0-9\s\-_.]+")


def org_name_problem(name: str) -> str | None:
    """Return why the name cannot be an organisation's, as the contract's message, or None."""
    name = name.strip()
    if not name:
        return "Organization name is required"
    if len(name) < MIN_NAME:
        return f"Organization name must be at least {MIN_NAME} characters long"
    if len(name) > MAX_NAME:
        return f"Organization name must be no more than {MAX_NAME} characters long"
    if not _NAME.fullmatch(name):
        return (
            "Organization name can only contain letters, numbers, spaces, hyphens, underscores, and periods"
        )
    return None


def slug_of(name: str) -> str:
    """Return the slug of a valid name; `org` for one without letters and digits."""
    kept = re.sub(r"[^a-z0-9\s-]", "", name.strip().lower())
    hyphened = re.sub(r"-+", "-", re.sub(r"\s+", "-", kept))
    return hyphened.strip("-") or "org"
