"""Demo users: the demo user, and others whose runs fill the store."""

from datetime import datetime

from models.accounts import User, credentials
from models.accounts.api_keys import KeyRules
from models.accounts.key_format import PresentedKey, present
from models.core.db import db

USER_ID = "demo-user"
EMAIL = "demo@stoa.invalid"
DOMAIN = "stoa.invalid"

NAMES = {
    "delia": "Delia Marsh",
    "ines": "Ines Prado",
    "tomas": "Tomas Lind",
    "noor": "Noor Haddad",
    "oskar": "Oskar Weiss",
    "mei": "Mei Tanaka",
    "amara": "Amara Obi",
    "bruno": "Bruno Costa",
    "chiara": "Chiara Neri",
    "edda": "Edda Holm",
    "farid": "Farid Rahimi",
    "greta": "Greta Novak",
    "hugo": "Hugo Martin",
    "jonas": "Jonas Berg",
    "kavya": "Kavya Rao",
    "lucia": "Lucia Romero",
}
ORGANISATIONS = {"Quarry Data Co-operative": "demo-quarry"}
"""Ids of the demo organisations by name. The demo user is an admin of each."""


def id_of(key: str) -> str:
    """The user id for a key of `NAMES`."""
    return USER_ID if key == "delia" else f"{USER_ID}-{key}"


def email_of(key: str) -> str:
    """The e-mail address for a key of `NAMES`. Undeliverable (`.invalid`)."""
    return EMAIL if key == "delia" else f"{key}@{DOMAIN}"


IDS = tuple(id_of(key) for key in NAMES)


def new_key(
    user_id: str, name: str, began: datetime, days: float, *, org_id: str | None = None
) -> PresentedKey:
    """Create an API key of a demo user that nobody has, and that lasts so many days from `began`. Flushes."""
    user = db.session.get_one(User, user_id)
    token, _ = credentials.create_key(
        user, by=None, days=days, name=name, now=began, org_id=org_id, rules=KeyRules()
    )
    return present(token)
