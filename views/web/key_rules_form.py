"""The fields of a form that say what an API key may do."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from flask import request

from models.accounts import scopes
from models.accounts.api_keys import ApiKey, KeyRules, checked_rules, rules_of
from models.accounts.key_format import LIVE
from models.core.errors import Invalid
from views.web.guards import settings

ENVIRONMENTS = [
    ("live", "Live: calls are charged"),
    ("test", "Test: the demo model answers, nothing is charged"),
]
GRACES = [
    ("86400", "1 day"),
    ("604800", "7 days"),
    ("3600", "1 hour"),
    ("0", "No longer: it ends at once"),
]
_LISTS = ("allowed_models", "allowed_agents", "allowed_ips")
_NUMBERS = ("rpm_limit", "tpm_limit", "concurrency_limit")
_INVALID = 0
"""A number that cannot be read: refused by `checked_rules`."""


def sent_rules() -> tuple[KeyRules, dict[str, str]]:
    """The rules of the form that was sent, and what is wrong with them by field. A form without these fields, of an older page,
    means the usual ones."""
    form = request.form
    if "rules" not in form:
        return KeyRules(environment=form.get("environment", LIVE)), {}
    values: dict[str, Any] = {
        **{name: form.get(name, "").replace(",", "\n").splitlines() for name in _LISTS},
        **{name: _number(form.get(name, "")) for name in _NUMBERS},
    }
    rules = KeyRules(
        environment=form.get("environment", LIVE),
        permissions=form.getlist("permissions"),
        is_strict="is_strict" in form,
        **values,
    )
    try:
        return checked_rules(rules), {}
    except Invalid as error:
        return rules, error.fields


def _number(text: str) -> int | None:
    text = text.strip().replace(",", "")
    if not text:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else _INVALID


def new_rules_fields(rules: KeyRules | None, *, errors: Mapping[str, str]) -> dict[str, Any]:
    """What the form of a new key shows: the rules as sent, or those that it begins with."""
    return rules_fields(rules or KeyRules(permissions=scopes.NEW_KEY), errors=errors)


def sent_grace() -> timedelta:
    """How long the old key is to work; a negative time for an unknown choice, which is refused."""
    text = request.form.get("grace", "")
    return timedelta(seconds=int(text) if text in dict(GRACES) else -1)


def rules_fields(rules: KeyRules, *, errors: Mapping[str, str], opened: bool = False) -> dict[str, Any]:
    """What the fields show: the rules, as sent or as they are."""
    numbers = {
        name: "" if getattr(rules, name) in (None, _INVALID) else getattr(rules, name) for name in _NUMBERS
    }
    sent = {name: request.form[name] for name in (*_LISTS, *_NUMBERS) if name in request.form}
    return {
        "environment": rules.environment,
        "environments": ENVIRONMENTS,
        "scopes": scopes.SCOPES,
        "permissions": set(rules.permissions),
        "is_strict": rules.is_strict,
        "default_rpm": settings().stoa_key_rpm,
        "open": opened or any(name in errors for name in KeyRules.__slots__),
        "errors": {name: errors.get(name) for name in KeyRules.__slots__},
        **numbers,
        **{name: "\n".join(getattr(rules, name) or ()) for name in _LISTS},
        **sent,
    }


def stored_fields(key: ApiKey | None) -> dict[str, Any] | None:
    """The fields with what a key may do; None for a key of the older kind."""
    return rules_fields(rules_of(key), errors={}) if key else None


def scope_summary(permissions: Sequence[str]) -> str:
    """What a key may do, in a few words."""
    inference = [name for name in permissions if name in scopes.INFERENCE]
    others = [name for name in permissions if name not in scopes.INFERENCE]
    if len(permissions) == len(scopes.NAMES):
        return "Everything"
    parts = ["Model calls"] if len(inference) == len(scopes.INFERENCE) else inference
    if len(others) > 2:
        others = [*others[:1], f"{len(others) - 1} more"]
    return ", ".join([*parts, *others]) or "Nothing"
