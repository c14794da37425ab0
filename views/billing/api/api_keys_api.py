"""`/api/v1/api-keys`: keys with scopes, managed by a key (crafely contract 2.8; usage: api_key_usage_route). A key never makes or opens a wider key."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from models.accounts import credentials, scopes
from models.accounts.api_keys import DEFAULT_GRACE, KeyRules, audited_rules, checked_rules, rules_of
from models.accounts.credentials import PAT_DAYS, Credential
from models.accounts.key_changes import (
    WiderKey,
    change_rules,
    check_not_wider,
    lock_creator,
    rotate,
)
from models.accounts.key_listing import KeyOf, KeyRecord, key_by_id, keys_page
from models.accounts.sessions import NEVER, Session
from models.core.db import db, now
from models.core.errors import Conflict, Invalid, NotFound
from models.ledger import Account, budgets
from models.orgs import OrgMember, membership
from models.orgs.org_keys import check_key_owner, record_key
from models.orgs.roles import can
from models.usage.key_spend import spent_by_own_keys
from views.billing.api.api_key_bodies import (
    ApiKeyAnswer,
    ApiKeyChanges,
    ApiKeyList,
    NewApiKey,
    Rotation,
    SecretAnswer,
)
from views.web.body import read
from views.web.error_bodies import MANAGEMENT
from views.web.format import iso
from views.web.guards import audit, key_caller, key_credential, limiter, require_key, settings
from views.web.keyset import cursor, cursor_text, page_limit
from views.web.operation import Answers, Operation, path, query

bp = Blueprint("api_keys_api", __name__)

PAGE, MAX_PAGE = 50, 100
DAY = timedelta(days=1)
KEY_ID = path("id", "`id` of the key, such as `key_…`")


ERRORS: Answers = {
    403: "The key would be wider than yours (`wider_key`), or your role does not allow it",
    404: "No such key of this account",
    409: "The key was revoked, is off or expired, or the limit of keys is reached",
    422: "A field is unknown or wrong",
}


class _Place(NamedTuple):
    """Whose keys the caller manages: their own, or an organisation's as its member."""

    caller: Credential
    member: OrgMember | None

    @property
    def owner(self) -> KeyOf:
        member = self.member
        if member is None:
            return KeyOf(self.caller.user.id, None)
        return KeyOf(None if can(member, "manage_keys") else member.user_id, member.org_id)


def _place(org_id: str | None) -> _Place:
    caller = require_key()
    own = caller.session.org_id
    if org_id is not None and org_id != own:
        raise NotFound("Organisation not found. Use a key of the organisation.")
    member = membership(caller.user.id, own) if own else None
    if own and member is None:
        raise NotFound("Organisation not found.")
    return _Place(caller, member)


@bp.get("/api/v1/api-keys")
@Operation(
    tag="API keys",
    caller="key",
    scope=scopes.KEYS_READ,
    parameters=[
        query("org_id", "The organisation of the key that is used"),
        query("active", "`true`: without revoked ones; `false`: only those"),
        query("before", "`next_cursor` of the previous page"),
        query("limit", f"At most {MAX_PAGE}; {PAGE} by default"),
    ],
    answers={200: ("Newest first", ApiKeyList), 404: ERRORS[404], 422: "A parameter is wrong"},
    door=MANAGEMENT,
)
def list_api_keys() -> ResponseReturnValue:
    """List the API keys of the account, masked.

    Keys of the older kind (`cb-pat-…`) are not among them.
    """
    place = _place(request.args.get("org_id"))
    active = {None: None, "true": True, "false": False}.get(request.args.get("active"), "")
    if active == "":
        raise Invalid("'active' must be true or false.")
    limit = page_limit(PAGE, MAX_PAGE)
    rows = keys_page(place.owner, cursor(), active=active, limit=limit + 1)  # type: ignore[arg-type]
    page = rows[:limit]
    last = page[-1].key if len(rows) > len(page) else None
    return jsonify(data=_answers(page), next_cursor=cursor_text(last.created_at, last.id) if last else None)


@bp.post("/api/v1/api-keys")
@limiter.limit("20/minute;200/hour", key_func=key_caller)
@Operation(
    tag="API keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    body=NewApiKey,
    answers={201: ("The key, shown once", SecretAnswer), **ERRORS},
    door=MANAGEMENT,
)
def create_api_key() -> ResponseReturnValue:
    """Create an API key.

    Never wider than the key that creates it: in scopes, environment, limits, lists and expiry. It is revoked with that key.
    """
    _place(None)
    body, moment = read(NewApiKey), now()
    place = _place(body.org_id)
    caller = place.caller
    rules = checked_rules(_rules(body, KeyRules(environment=body.environment or "live")))
    expires = _expiry(body, place, moment)
    check_not_wider(caller.session, caller.key, rules, expires)
    _refuse_budgeted(caller)
    if place.member:
        check_key_owner(place.member, body.name)
    token, row = credentials.create_key(
        caller.user,
        by=None,
        days=None if expires is None else (expires - moment) / DAY,
        name=_name(body.name),
        limit=settings().stoa_keys_per_account,
        now=moment,
        org_id=caller.session.org_id,
        team_id=caller.session.team_id,
        rules=rules,
    )
    row.parent = caller.session.session_token
    lock_creator(caller.session, moment)
    key = _find(place, key_id=row.session_token)
    _record("created", key, after=audited_rules(key.key))
    db.session.commit()
    return _secret(key, token, 201)


@bp.get("/api/v1/api-keys/<id>")
@Operation(
    tag="API keys",
    caller="key",
    scope=scopes.KEYS_READ,
    parameters=[KEY_ID],
    answers={200: ("The key", ApiKeyAnswer), 404: ERRORS[404]},
    door=MANAGEMENT,
)
def get_api_key(id: str) -> ResponseReturnValue:
    """Get an API key, masked."""
    return jsonify(_answers([_find(_place(None), id)])[0])


@bp.patch("/api/v1/api-keys/<id>")
@limiter.limit("60/minute", key_func=key_caller)
@Operation(
    tag="API keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    parameters=[KEY_ID],
    body=ApiKeyChanges,
    answers={200: ("The key", ApiKeyAnswer), **ERRORS},
    door=MANAGEMENT,
)
def change_api_key(id: str) -> ResponseReturnValue:
    """Change an API key: name, scopes, limits, lists, expiry, or whether it is active."""
    place = _place(None)
    key, body, moment = _find(place, id, lock=True), read(ApiKeyChanges), now()
    session, before = _live(key), audited_rules(key.key)
    if "name" in body.model_fields_set:
        session.name = _name(body.name)
    if "expires_at" in body.model_fields_set:
        session.expires = _expiry(body, place, moment) or NEVER
    if body.active is not None:
        session.disabled_at = None if body.active else session.disabled_at or moment
    change_rules(key.key, _rules(body, rules_of(key.key)), moment)
    if body.model_fields_set != {"active"} or body.active:
        check_not_wider(place.caller.session, place.caller.key, rules_of(key.key), session.expires)
    _record("changed", key, before=before, after=audited_rules(key.key))
    db.session.commit()
    return jsonify(_answers([key])[0])


@bp.post("/api/v1/api-keys/<id>/rotate")
@limiter.limit("20/minute;200/hour", key_func=key_caller)
@Operation(
    tag="API keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    parameters=[KEY_ID],
    body=Rotation,
    answers={200: ("The new key, shown once", SecretAnswer), **ERRORS},
    door=MANAGEMENT,
)
def rotate_api_key(id: str) -> ResponseReturnValue:
    """Give an API key a new secret.

    Id, usage and limits stay. The old key works for the grace; one from an earlier rotation ends at once.
    """
    place = _place(None)
    key = _find(place, id, lock=True)
    session, body = _live(key), read(Rotation)
    check_not_wider(place.caller.session, place.caller.key, rules_of(key.key), session.expires)
    grace = DEFAULT_GRACE if body.grace_seconds is None else timedelta(seconds=body.grace_seconds)
    token = rotate(key.own, grace=grace, now=now())
    _record("rotated", key, after={"grace_seconds": int(grace.total_seconds())})
    db.session.commit()
    return _secret(key, token, 200)


@bp.post("/api/v1/api-keys/<id>/activate")
@limiter.limit("60/minute", key_func=key_caller)
@Operation(
    tag="API keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    parameters=[KEY_ID],
    answers={200: ("The key", ApiKeyAnswer), **ERRORS},
    door=MANAGEMENT,
)
def activate_api_key(id: str) -> ResponseReturnValue:
    """Switch an API key on."""
    return _switch(id, on=True)


@bp.post("/api/v1/api-keys/<id>/deactivate")
@limiter.limit("60/minute", key_func=key_caller)
@Operation(
    tag="API keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    parameters=[KEY_ID],
    answers={200: ("The key", ApiKeyAnswer), **ERRORS},
    door=MANAGEMENT,
)
def deactivate_api_key(id: str) -> ResponseReturnValue:
    """Switch an API key off. Calls in flight finish, new ones are refused."""
    return _switch(id, on=False)


@bp.delete("/api/v1/api-keys/<id>")
@limiter.limit("60/minute", key_func=key_caller)
@Operation(
    tag="API keys",
    caller="key",
    scope=scopes.KEYS_WRITE,
    parameters=[KEY_ID],
    answers={200: ("The revoked key, which stays listed", ApiKeyAnswer), **ERRORS},
    door=MANAGEMENT,
)
def revoke_api_key(id: str) -> ResponseReturnValue:
    """Revoke an API key, and those that it created."""
    key = _find(_place(None), id, lock=True)
    if key.session is not None:
        _record("revoked", key, before={"key": key.session.token_hint})
        db.session.delete(key.session)
        db.session.flush()
        db.session.commit()
        key = _find(_place(None), id)
    return jsonify(_answers([key])[0])


def key_record(id: str) -> KeyRecord:
    """The key with this id that the key of the request manages. Raises NotFound, DomainError (401)."""
    return _find(_place(None), id)


# -- parts ---------------------------------------------------------------------------------------------------


def _find(place: _Place, id: str = "", *, key_id: str = "", lock: bool = False) -> KeyRecord:
    found = key_by_id(place.owner, id, key_id=key_id, lock=lock)
    if found is None:
        raise NotFound("There is no such API key.")
    return found


def _live(key: KeyRecord) -> Session:
    if key.session is None:
        raise Conflict("This API key was revoked.")
    return key.session


def _switch(id: str, *, on: bool) -> ResponseReturnValue:
    place = _place(None)
    key = _find(place, id, lock=True)
    session, moment = _live(key), now()
    if on:
        check_not_wider(place.caller.session, place.caller.key, rules_of(key.key), session.expires)
    if on != (session.disabled_at is None):
        session.disabled_at = None if on else moment
        key.key.updated_at = moment
        _record("changed", key, after={"on": on})
    db.session.commit()
    return jsonify(_answers([key])[0])


def _rules(body: ApiKeyChanges, rules: KeyRules) -> KeyRules:
    """The rules with what the body changes."""
    sent = body.model_fields_set
    values: dict[str, Any] = {name: getattr(rules, name) for name in KeyRules.__slots__}
    for name in ("permissions", "allowed_models", "allowed_agents", "allowed_ips"):
        if name in sent:
            values[name] = getattr(body, name)
    if body.limits is not None:
        for name, field in (("rpm", "rpm_limit"), ("tpm", "tpm_limit"), ("parallel", "concurrency_limit")):
            if name in body.limits.model_fields_set:
                values[field] = getattr(body.limits, name)
    if body.strict is not None:
        values["is_strict"] = body.strict
    return KeyRules(**values)


def _expiry(body: ApiKeyChanges, place: _Place, moment: datetime) -> datetime | None:
    """The expiry of the body, else of a key like the caller's; None: never. Raises Invalid."""
    most = moment + timedelta(days=PAT_DAYS)
    if "expires_at" not in body.model_fields_set:
        return min(most, place.caller.session.expires)
    expires = body.expires_at
    if expires is not None and not moment < expires <= most:
        raise _invalid("expires_at", f"Choose a time within {PAT_DAYS} days, or null.")
    if expires is None and place.member:
        raise _invalid("expires_at", f"A key of an organisation lasts at most {PAT_DAYS} days.")
    return expires


def _name(name: str | None) -> str | None:
    if name is not None and not name.isprintable():
        raise _invalid("name", "Use ordinary characters.")
    return (name or "").strip() or None


def _invalid(field: str, problem: str) -> Invalid:
    return Invalid(problem, fields={field: problem})


def _refuse_budgeted(caller: Credential) -> None:
    """Raise WiderKey for a key with a budget of its own: its keys would have none."""
    session = caller.session
    limits = budgets.effective_limits(
        Account.of(session), user_id=session.user_id, key_id=session.session_token
    )
    if any(each.level == "key" for each in limits):
        raise WiderKey("This key has a budget of its own, so it cannot create keys, which would have none.")


def _record(action: str, key: KeyRecord, *, before: Any = None, after: Any = None) -> None:
    name = (key.session and key.session.name) or key.key.key_id
    if key.key.org_id:
        record_key(key.key.org_id, action, name, before=before, after=after)
    user = key_credential()
    audit(f"token.{action}", key.key.user_id, user=user and user.user, before=before, after=after)


def _secret(key: KeyRecord, token: str, status: int) -> ResponseReturnValue:
    response = jsonify({**_answers([key])[0], "key": token})
    response.headers["Cache-Control"] = "no-store"
    return response, status


def _answers(rows: Sequence[KeyRecord]) -> list[dict[str, Any]]:
    sessions = [row.session for row in rows if row.session is not None]
    spent: dict[str, int] = {}
    for user_id in {row.user_id for row in sessions}:
        own = [row for row in sessions if row.user_id == user_id]
        spent |= spent_by_own_keys(user_id, own, now())
    return [_answer(row, spent) for row in rows]


def _answer(row: KeyRecord, spent: dict[str, int]) -> dict[str, Any]:
    key, facts = row.key, row.facts(now())
    return {
        "id": key.id,
        "key_id": key.key_id,
        "name": facts.name,
        "masked": f"{key.key_id[:12]}...{key.last4}",
        "environment": key.environment,
        "permissions": key.permissions,
        "state": facts.state,
        "active": facts.state == "active",
        "user_id": key.user_id,
        "org_id": key.org_id,
        "created_by": key.created_by,
        "allowed_models": key.allowed_models,
        "allowed_agents": key.allowed_agents,
        "allowed_ips": key.allowed_ips,
        "limits": {"rpm": key.rpm_limit, "tpm": key.tpm_limit, "parallel": key.concurrency_limit},
        "strict": key.is_strict,
        "expires_at": facts.expires_at and iso(facts.expires_at),
        "created_at": iso(key.created_at),
        "updated_at": iso(key.updated_at),
        "rotated_at": key.rotated_at and iso(key.rotated_at),
        "prev_valid_until": key.prev_valid_until and iso(key.prev_valid_until),
        "last_used_at": facts.last_used_at and iso(facts.last_used_at),
        "revoked_at": key.revoked_at and iso(key.revoked_at),
        "spent_this_month": spent.get(key.key_id, 0),
    }
