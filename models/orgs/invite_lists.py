"""Reading a pasted list or a CSV file of people to invite."""

import csv
import re
from typing import NamedTuple

from models.accounts.signing_in import clean_email
from models.core.errors import Invalid
from models.orgs.org import ORG_ROLES

MAX_LINES = 500
_SEPARATORS = re.compile(r"[;\t]")
_BRACKETED = re.compile(r"<([^<>]*)>")


class Invitee(NamedTuple):
    """One person of a list: the line, what stands there, the address (None if it is none), and a role named beside it."""

    line: int
    text: str
    email: str | None
    role: str | None = None


def read_list(text: str) -> list[Invitee]:
    """The people of a list: a line each, or several addresses in a line; commas, semicolons and tabs separate.

    A line may name the person (`Kit <kit@example.org>`) and a role; a first line without an address is a heading. Raises
    Invalid (400) for an empty list or more than 500 people.
    """
    lines = text.replace("\ufeff", "").splitlines()
    found: list[Invitee] = []
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in next(csv.reader([_SEPARATORS.sub(",", line)]), []) if cell.strip()]
        addresses = [cell for cell in cells if "@" in cell]
        if not cells or (not addresses and not found and "mail" in line.lower()):
            continue
        role = next((cell.lower() for cell in cells if cell.lower() in ORG_ROLES), None)
        found += [_invitee(number, cell, role) for cell in addresses or [line.strip()]]
        if len(found) > MAX_LINES:
            raise _refused(f"At most {MAX_LINES} people at a time. Split the list.")
    if not found:
        raise _refused("Enter at least one e-mail address.")
    return found


def _invitee(number: int, cell: str, role: str | None) -> Invitee:
    bracketed = _BRACKETED.search(cell)
    try:
        return Invitee(number, cell[:320], clean_email(bracketed[1] if bracketed else cell), role)
    except Invalid:
        return Invitee(number, cell[:320], None, role)


def _refused(message: str) -> Invalid:
    return Invalid(message, fields={"addresses": message}, status=400)
