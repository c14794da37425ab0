"""Demo users: the demo user, and others whose runs fill the store."""

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
