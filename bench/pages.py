"""The pages that `bench/growth.py` requests, their budgets, and the parameters of their addresses."""

import time

from bench import fill
from bench.stoa import Stoa

VIEWER = 0
"""The account with the largest share of the data."""

PAGES = {
    "usage": "/profile?tab=usage",
    "a year of usage": "/profile?tab=usage&range=custom&from={year}&to={today}",
    "statement": "/profile?tab=statement",
    "runs": "/runs",
    "failed runs": "/runs?status=failed",
    "runs of an agent": "/runs?agent=planner",
    "runs of an unknown agent": "/runs?agent=nosuchagent",
    "dearest runs": "/runs?sort=dearest",
    "longest runs": "/runs?sort=longest",
    "dearest runs of an agent": "/runs?sort=dearest&agent=planner",
    "dearest runs of a day": "/runs?sort=dearest&when=24h",
    "longest failed runs": "/runs?sort=longest&status=failed",
    "run": "/runs/{run}",
    "call": "/runs/{run}/calls/{call}",
    "calls": "/calls",
    "calls of a model in 30 days": "/calls?model=openai/gpt-5&range=30d",
    "calls of an unknown model": "/calls?model=no/such",
    "calls of a rare model": "/calls?model=cohere/command-a",
    "calls of a provider": "/calls?provider=openai",
    "calls of a rare provider": "/calls?provider=cohere",
    "calls of an unknown provider": "/calls?provider=nosuch",
    "calls of a rare key": "/calls?key={rare_key}",
    "calls of an unknown key": "/calls?key=nosuchkey",
    "calls of an agent": "/calls?agent=acme/planner",
    "calls of an agent in a month": "/calls?agent=acme/planner&range=30d",
    "calls of an agent and a model": "/calls?agent=acme/planner&model=no/such",
    "failed calls": "/calls?state=failed",
    "calls with an unknown error": "/calls?error=nosuch",
    "calls with a code": "/calls?code=failed&state=failed",
    "dear calls": "/calls?above=6",
    "dearest calls": "/calls?sort=dearest",
    "dearest calls of a day": "/calls?sort=dearest&range=24h",
    "dearest calls of a week": "/calls?sort=dearest&range=7d",
    "dearest calls of a model": "/calls?sort=dearest&model=openai/gpt-5",
    "dearest calls of a rare model": "/calls?sort=dearest&model=cohere/command-a",
    "dearest calls of an agent in a month": "/calls?sort=dearest&agent=acme/planner&range=30d",
    "calls with a text": "/calls?text=second",
    "calls with an unknown text": "/calls?text=nosuchtext",
    "models": "/models",
    "org": "/orgs/fill-org",
    "org usage": "/orgs/fill-org/usage",
    "a year of org usage by key": "/orgs/fill-org/usage?by=key&range=custom&from={year}&to={today}",
    "org usage of a model by key": "/orgs/fill-org/usage?by=key&model=openai/gpt-5",
    "org usage of a member": "/orgs/fill-org/usage?by=model&member={member}",
    "org calls": "/orgs/fill-org/calls",
    "org calls of a key": "/orgs/fill-org/calls?key={org_key}",
    "org calls of a member": "/orgs/fill-org/calls?member={member}",
    "org calls of a provider": "/orgs/fill-org/calls?provider=openai",
    "org calls of an agent": "/orgs/fill-org/calls?agent=acme/planner",
    "dearest org calls of a week": "/orgs/fill-org/calls?sort=dearest&range=7d",
    "dearest org calls of a member": "/orgs/fill-org/calls?sort=dearest&member={member}",
    "failed org calls": "/orgs/fill-org/calls?state=failed",
    "org members": "/orgs/fill-org/team",
    "org member": "/orgs/fill-org/team/{member}",
    "org invites": "/orgs/fill-org/invites",
    "org teams": "/orgs/fill-org/teams",
    "org team": "/orgs/fill-org/teams/fill-team-1",
    "org keys": "/orgs/fill-org/keys",
    "org key": "/orgs/fill-org/keys/{org_key}",
    "org repositories": "/orgs/fill-org/repositories",
    "org budgets": "/orgs/fill-org/budgets",
    "org budget": "/orgs/fill-org/budgets/{org_budget}",
    "org billing": "/orgs/fill-org/billing",
    "org statement": "/orgs/fill-org/billing/statement",
    "org runs": "/orgs/fill-org/runs",
    "dearest org runs": "/orgs/fill-org/runs?sort=dearest",
    "org audit log": "/orgs/fill-org/audit",
}
BUDGET, USAGE_BUDGET = 100, 60
"""p95 budgets in milliseconds: of each page, and of the usage pages."""
USAGE_PAGES = ("usage", "org usage")


def addresses(server: Stoa) -> dict[str, str]:
    """URL parameters of the pages, with a run and a call that are not the latest, and a rare key."""
    with server.sql() as connection:
        parameters = connection.execute(_PARAMETERS, (fill.user_id(VIEWER), fill.ORG)).fetchone()
        if parameters is None:
            raise SystemExit("This directory was filled without an organisation. Fill a new one.")
        found = connection.execute(
            "SELECT run_id, request_id FROM gateway_call WHERE account_id = %s AND run_id IS NOT NULL AND state = 'settled'"
            " ORDER BY finished_at DESC OFFSET 400 LIMIT 1",
            (fill.user_id(VIEWER),),
        ).fetchone()
    run, call = (str(name) for name in found) if found else ("", "")
    names = ("rare_key", "org_key", "member", "org_budget")
    return {"run": run, "call": call} | dict(zip(names, map(str, parameters), strict=True)) | days()


# one of the members who call most, their key, and the budget of each key
_PARAMETERS = """
    SELECT (SELECT "sessionToken" FROM session WHERE "userId" = %s AND token_hint = 'rare'),
        k."sessionToken", k."userId", (SELECT id FROM budget WHERE account_id = k.org_id AND level = 'key')
    FROM session k WHERE k.org_id = %s ORDER BY k.created_at OFFSET 4 LIMIT 1
"""


def days() -> dict[str, str]:
    """Today, and the first day of generated data, as dates in UTC."""
    year, today = (time.strftime("%Y-%m-%d", time.gmtime(time.time() - ago * 86400)) for ago in (360, 0))
    return {"year": year, "today": today}
