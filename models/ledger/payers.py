"""Which account pays for a run, and why an organisation does not: `gateway_payer` as calls use it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from models.core.db import db, extension
from models.core.errors import DomainError
from models.ledger.sanitizing import clean_text
from models.orgs.org_repos import owner_and_repo

PAYER_OUTCOMES = ("org_not_found", "org_conflict", "org_role", "org_sso", "team_model", "team_repository")
"""Outcomes of admission that `payer_refusal` explains."""

_PAYER = text(
    "SELECT outcome, org_id, paid_by, refusal"
    " FROM gateway_payer(:user, :key, :key_org, :key_team, :org, :repo, :run_org, :run_paid_by, '', '')"
)


MAX_REPOSITORY = 500
"""Characters read of a repository's URL."""


@dataclass(frozen=True, slots=True)
class PayerHint:
    """What a request says about who pays: an organisation's id or slug, and a repository in normal form ('' if unreadable)."""

    org: str | None = None
    repo_url: str | None = None


NO_HINT = PayerHint()


def payer_hint(org: Any, repo: Any) -> PayerHint:
    """What a request says about who pays, from untrusted values of its headers or its body. Anything but text says nothing."""
    repo_url = None
    if isinstance(repo, str) and repo:
        found = owner_and_repo(clean_text(repo[:MAX_REPOSITORY]))
        repo_url = found.url if found else ""
    return PayerHint(clean_text(org) if isinstance(org, str) and org else None, repo_url)


@dataclass(frozen=True, slots=True)
class RunPayer:
    """The account of a run: an organisation, or (None) the person. `paid_by` is None for a key's own account."""

    org_id: str | None = None
    paid_by: str | None = None
    repo_url: str | None = None


def payer_of(
    user_id: str,
    hint: PayerHint,
    *,
    key: str | None = None,
    key_org: str | None = None,
    key_team: str | None = None,
    parent: RunPayer | None = None,
) -> RunPayer:
    """Return who pays for a run of this user, by key (its id and organisation), name, the run that spawns it, or repository. Raises DomainError (403, 404)
    for an organisation that does not."""
    parent = parent or RunPayer()
    repo_url = hint.repo_url if hint.repo_url is not None else parent.repo_url
    if not (key_org or hint.org or repo_url is not None or parent.paid_by):
        return RunPayer()
    names = {
        "user": user_id,
        "key": key,
        "key_org": key_org,
        "key_team": key_team,
        "org": hint.org,
        "repo": repo_url,
        "run_org": parent.org_id,
        "run_paid_by": parent.paid_by,
    }
    row = db.session.execute(_PAYER, names).one()
    if row.outcome:
        status, message, code = payer_refusal(
            row.outcome, row.refusal or {}, "", extension("settings").base_url
        )
        raise DomainError(message, code=code, status=status)
    delegated = row.org_id is not None and row.paid_by != "key"
    return RunPayer(row.org_id, row.paid_by if delegated else None, repo_url or None)


def payer_refusal(outcome: str, names: Mapping[str, Any], model: str, base_url: str) -> tuple[int, str, str]:
    """Status, message and code of a call that the organisation does not pay for. `names` is the refusal of `gateway_payer`."""
    org, team = names.get("org", ""), names.get("team", "")
    refusals = {
        "org_not_found": (404, "Organization not found. Name one that you belong to, by its id or slug."),
        "org_conflict": (403, f"This key pays from {org}; the call names another organisation."),
        "org_role": (
            403,
            f"Your role in {org} ({names.get('role', '')}) makes no calls. Ask an admin to make you a member.",
        ),
        "org_sso": (
            403,
            f"{org} requires single sign-on. Authorise this key for it at"
            f" {base_url}/orgs/{names.get('slug', '')}/personal-keys, or use a key of the organisation.",
        ),
        "team_model": (403, f"The team '{team}' of {org} may not use the model '{model}'."),
        "team_repository": (
            403,
            f"The team '{team}' of {org} makes calls from its repositories only. Name one of them (x-stoa-repo).",
        ),
    }
    status, message = refusals[outcome]
    return status, message, outcome
