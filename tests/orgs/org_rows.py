"""One row of everything that an organisation's routes show, and addresses from rules of URLs."""

import re
from typing import Any

from werkzeug.routing import Rule

from models.accounts import User
from models.accounts.credentials import hash_token
from models.gateway import ProviderKey
from models.ledger import Account, BudgetRequest
from models.ledger.account_stops import AccountStop
from models.ledger.budgets import create_budget
from models.orgs import Org, OrgInvite, OrgRepo
from models.orgs.alerts import OrgAlert
from models.orgs.domain_joining import OrgJoinRequest
from models.orgs.domains import OrgDomain
from models.orgs.offboarding import OrgRemoval
from models.orgs.service_accounts import create_service_account
from models.orgs.team_editing import add_to_team, create_team
from models.orgs.webhooks import OrgWebhook, WebhookDelivery
from models.runners.account_runner import create_runner
from models.runs import RunShare
from tests import factories
from tests.assistants.assistant_rows import assistant_rows
from tests.atlas.words_rows import words_rows
from tests.deployments.deployment_rows import deployment_rows
from tests.insights.insight_rows import insight_rows
from tests.insights.item_run_rows import run_rows
from tests.projects.project_rows import project_rows
from tests.threads.thread_rows import thread_rows

RECEIPT: dict[str, Any] = dict.fromkeys(("calls", "credits", "live_calls", "held", "invites"), 0) | {
    "keys": [],
    "name": "x",
    "removed_by_name": "a",
}


EVIDENCE = {"spent": 900, "limit": 1000, "held": 40, "forecast": 2400, "name": "bob", "runs": []}


def rows_of(organisation: Org, owner: User, member: User, applicant: User) -> dict[str, str]:
    """Create one row of everything. Its id for each argument of a route; by argument, or by the part of the path before it and
    the argument."""
    org, user = organisation.id, member
    with factories.one_commit():
        factories.grant(owner, 900, "organization", org_id=org)
        budget = create_budget(Account(org_id=org), "account", "month", 100)
        team = create_team(organisation, "Web")
        add_to_team(team, member.id)
        service = create_service_account(organisation, owner.id, "Builds")
        webhook = factories.save(OrgWebhook(org_id=org, url="https://example.org", sealed_secret="x"))
        domain = factories.save(OrgDomain(org_id=org, domain="example.org", token="t"))
        run = factories.run(user, org_id=org)
        message = factories.message(user, org_id=org, response={"tool_calls": [{}]})
        share = factories.save(RunShare(run_id=run.id, token_hash="x", with_messages=False))
        rows = {
            "invite_id": OrgInvite(
                org_id=org,
                email="kit@example.org",
                role="member",
                token="t",
                invited_by=owner.id,
                expires_at=factories.now(),
            ),
            "repo_id": OrgRepo(
                org_id=org, repo_url="https://github.com/acme/web", repo_name="web", approved_by=owner.id
            ),
            "alert_id": OrgAlert(
                org_id=org, kind="low_balance", key="k", severity="info", title="t", message="m", facts={}
            ),
            "join_request_id": OrgJoinRequest(org_id=org, user_id=applicant.id, role="member"),
            "provider_key_id": ProviderKey(org_id=org, provider="openai", name="k", sealed="x", hint="1234"),
            "removal_id": OrgRemoval(
                org_id=org,
                user_id="x",
                email="x@example.org",
                role="member",
                removed_by="a@example.org",
                receipt=RECEIPT,
            ),
            "delivery_id": WebhookDelivery(webhook_id=webhook.id, event="test", payload={}, state="failed"),
            "budget_request_id": BudgetRequest(
                budget_id=budget.id, subject="", user_id=member.id, amount=500, evidence=EVIDENCE
            ),
            "stop_id": AccountStop(account_id=org, stopped_by_name="a", stopped_at=factories.now()),
        }
        for row in rows.values():
            factories.save(row)
        call = factories.call(user, org_id=org, message=message, run_id=run.id)
        token = factories.token(user, org_id=org)
        runner, _ = create_runner(owner, Account(org_id=org), name="Build", by=None, now=factories.now())
        thread = thread_rows(owner.id, Account(org_id=org))
        assistant = assistant_rows(owner.id, Account(org_id=org))
        project = project_rows(owner.id, Account(org_id=org))
        deployed = deployment_rows(owner.id, Account(org_id=org), project)
        insight = insight_rows(project)
        project |= run_rows(project) | words_rows(project)
    found = {name: str(row.id) for name, row in rows.items()}
    return found | {
        **thread,
        **assistant,
        **deployed,
        **insight,
        **project,
        "team_id": team.id,
        "user_id": member.id,
        "service-accounts/user_id": service.user_id,
        "budget_id": budget.id,
        "budgets/requests/request_id": found["budget_request_id"],
        "webhook_id": webhook.id,
        "domain_id": domain.id,
        "settings/domains/id": domain.id,
        "run_id": run.id,
        "share_id": share.id,
        "number": "0",
        "request_id": call.request_id,
        "runner_id": runner.id,
        "key_id": hash_token(token),
        "provider-keys/key_id": found["provider_key_id"],
        "email": "kit@example.org",
        # these never leave Stripe's and the ledger's own lookup by account
        "method": "pm_1",
        "operation": "topup-1",
        "refund": "re_1",
        "statement/grants/id": "organization-1",
        "purchases/id": "org-1",
    }


def path_of(rule: Rule, slug: str, ids: dict[str, str]) -> str:
    """The path of the route for this organisation, with these ids for its other arguments. Raises KeyError for a new one."""

    def filled(match: re.Match[str]) -> str:
        before, name = match[1], match[2]
        if name in ("slug", "org_id"):
            return f"{before}/{slug}"
        given = next((key for key in (*_suffixes(before, name), name) if key in ids), None)
        if given is None:
            raise KeyError(f"an id for the {name} of {rule}")
        return f"{before}/{ids[given]}"

    path = rule.rule
    while "<" in path:
        path = re.sub(r"^([^<]*)/<(?:\w+:)?(\w+)>", filled, path)
    return path


def _suffixes(before: str, name: str) -> list[str]:
    parts = before.split("/")
    return [f"{'/'.join(parts[-count:])}/{name}" for count in (2, 1)]
