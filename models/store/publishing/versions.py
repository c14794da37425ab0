"""Version numbers of agents (contract 3.11): their form, their order, and which one comes next."""

import re
from typing import NamedTuple

PART_MAX = 2**31 - 1
"""A part is kept as a PostgreSQL `integer`."""

_PART = "(0|[1-9][0-9]*)"
_FORM = re.compile(rf"{_PART}\.{_PART}\.{_PART}")


class BadVersion(ValueError):
    """The version cannot be published. The text is the reason in the contract's words."""


class VersionNumber(NamedTuple):
    """A version as numbers; ordered by them, never as text."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


NONE = VersionNumber(0, 0, 0)


def parse(text: str) -> VersionNumber:
    """`text` as three numbers. Raises BadVersion for any other form, leading zeros among them, since 1.01.0 and 1.1.0
    would be one number and two names; and for numbers too large to be kept."""
    found = _FORM.fullmatch(text)
    wrong = f"Invalid version format: {text}. Must be in semver format (e.g., 1.0.0)"
    if found is None:
        raise BadVersion(wrong)
    # Compared by length first: Python refuses to convert thousands of digits.
    if any(len(part) > 10 or int(part) > PART_MAX for part in found.groups()):
        raise BadVersion(f"{wrong}, and each number may be at most {PART_MAX}")
    return VersionNumber(*(int(part) for part in found.groups()))


def following(latest: VersionNumber, asked: str | None) -> str:
    """The version to publish after `latest` (`NONE` for a first one): `asked`, or the next patch without one.

    Raises BadVersion when `asked` has another form or is not greater.
    """
    if asked is None:
        if latest.patch == PART_MAX:
            raise BadVersion(f"The latest version ({latest}) has no next patch. Say which version this is")
        return str(latest._replace(patch=latest.patch + 1))
    if parse(asked) <= latest:
        raise BadVersion(f"Provided version {asked} must be greater than the latest version ({latest})")
    return asked
