"""Licences of agents: SPDX expressions in their standard spelling, and other text as written."""

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

MAX_CHARS = 100


def canonical(text: str) -> str:
    """`mit or apache-2.0` as `MIT OR Apache-2.0`; text that is no SPDX expression without the spaces around it."""
    return spdx(text) or text.strip()


def spdx(text: str) -> str | None:
    """The SPDX expression in its standard spelling, None for other text. Validates against the list of SPDX licences."""
    try:
        return canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return None
