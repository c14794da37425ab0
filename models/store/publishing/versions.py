"""Version numbers of agents (contract 3.11): parsing, ordering and the next version."""

import re
from typing import NamedTuple

PART_MAX = 2**31 - 1
"""The maximum of a PostgreSQL `integer`."""

_PART = "(0|[1-9][0-9]*)"
_FORM = re.compile(rf"{_PART}\.{_PART}\.{_PART}")


class BadVersion(ValueError):
    """The version cannot be published. The message is the contract's."""


class VersionNumber(NamedTuple):
    """A version, ordered numerically."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


NONE = VersionNumber(0, 0, 0)


def parse(text: str) -> VersionNumber:
    """Parse three numbers. Raises BadVersion for any other format, for leading zeros (1.01.0 and 1.1.0 would be the same
    version), and for numbers beyond `PART_MAX`."""
    found = _FORM.fullmatch(text)
    wrong = f"Invalid version format: {text}. Must be in semver format (e.g., 1.0.0)"
    if found is None:
        raise BadVersion(wrong)
    # length first: Python refuses to convert thousands of digits
    if any(len(part) > 10 or int(part) > PART_MAX for part in found.groups()):
        raise BadVersion(f"{wrong}, and each number may be at most {PART_MAX}")
    return VersionNumber(*(int(part) for part in found.groups()))


def next_version(latest: VersionNumber, requested: str | None) -> str:
    """The version to publish after `latest` (`NONE` for the first): `requested`, by default the next patch version.

    Raises BadVersion if `requested` is malformed or not greater.
    """
    if requested is None:
        if latest.patch == PART_MAX:
            raise BadVersion(f"The latest version ({latest}) has no next patch. Specify a version")
        return str(latest._replace(patch=latest.patch + 1))
    if parse(requested) <= latest:
        raise BadVersion(f"Provided version {requested} must be greater than the latest version ({latest})")
    return requested
