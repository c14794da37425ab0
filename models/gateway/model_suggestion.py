"""Which model a page offers before one is chosen."""

import re
from collections.abc import Sequence

from sqlalchemy import select

from models.core.db import db
from models.gateway.gateway_call import GatewayCall

FAMILIES = (
    re.compile(r"claude-sonnet-[\d.-]*\d"),
    re.compile(r"gpt-\d+(?:\.\d)?-mini"),
    re.compile(r"gemini-[\d.]+-flash"),
)
"""Names of models, without vendor, that are good at most things and not dear, in the order to offer them."""


def suggested_model(names: Sequence[str], account_id: str | None = None) -> str:
    """One of the listed `names`, which begin with the demo model: the last that the account called, else the newest of a well known
    family, else the first other than the demo."""
    if account_id is not None:
        last = select(GatewayCall.requested_model).where(
            GatewayCall.account_id == account_id, GatewayCall.state == "settled"
        )
        asked = db.session.scalar(last.order_by(GatewayCall.finished_at.desc()).limit(1))
        if asked in names:
            return str(asked)
    for family in FAMILIES:
        if found := [name for name in names if family.fullmatch(name.rpartition("/")[2])]:
            return max(found, key=_version)
    return names[1] if len(names) > 1 else names[0]


def _version(name: str) -> tuple[list[int], int]:
    return [int(number) for number in re.findall(r"\d+", name) if len(number) < 5], -len(name)
