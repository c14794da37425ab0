"""Every route below an organisation, from the map of URLs: ids of another organisation, and roles. A new route fails until listed."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from models.core.db import db
from models.orgs import Org
from tests import factories
from tests.factories import Person
from tests.orgs.org_rows import path_of, rows_of
from views.web.guards import limiter

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")

BY_ACCOUNT = {
    *("billing.statement_day", "billing.statement_pdf"),  # of which every account has its own
    *(
        "billing.set_default",
        "billing.ask_removal",
        "billing.remove",
    ),  # cards, which Stripe knows: tests/billing
    *("billing.confirm_own_topup", "billing.own_topup_confirmed"),  # the same
}
"""Routes whose second argument is nothing of the organisation's."""
OTHERWISE = {"orgs_api.withdraw_invitation": 200, "runs.row": 286}
"""Withdrawing what is not there is no error (contract 2.8); 286 ends the polling of a row."""
BODIES: dict[str, dict[str, Any]] = {
    "orgs_api.change_role": {"role": "viewer"},
    "orgs_api.switch_repository": {"isActive": False},
    "orgs_api.add_team_member": {"userId": "x"},
}

OWNERS = """
orgs.delete orgs.drop_domain orgs.drop_provider orgs.drop_scim_token orgs.keep_audit orgs.map_group orgs.name_domain
orgs.new_scim_token orgs.prove_domain orgs.save_provider orgs.set_enforcement orgs.transfer orgs.unmap_group
orgs_api.delete orgs_api.delete_settings
"""
ADMINS = """
assistants.add_tool assistants.new_secret
budgets.add_raise budgets.change budgets.create budgets.decide budgets.end orgs.add_member
provider_keys.add_provider_key provider_keys.change_provider_key provider_keys.remove_provider_key
orgs.add_repository orgs.add_to_team orgs.change_role orgs.create_service orgs.create_team orgs.create_webhook
orgs.decide_join_request orgs.delete_service orgs.delete_team orgs.delete_webhook orgs.edit_service orgs.edit_team
orgs.move_org_key orgs.remove_from_team orgs.remove_member orgs.remove_repository
orgs.repeat_delivery orgs.resend_invite orgs.resume_agents orgs.rotate_webhook_secret orgs.save_alert_settings
orgs.save_client_settings orgs.save_settings orgs.send_invites orgs.send_test_mail orgs.set_joining orgs.stop_agents
orgs.switch_repository orgs.switch_service orgs.switch_webhook_on orgs.test_webhook orgs.withdraw_invite
orgs_api.add_member orgs_api.add_repository orgs_api.add_team_member orgs_api.change_role
orgs_api.create_service_account orgs_api.create_team orgs_api.delete_service_account orgs_api.delete_team orgs_api.edit
orgs_api.edit_service_account orgs_api.edit_settings orgs_api.edit_team orgs_api.invite_by_mail orgs_api.remove_member
orgs_api.remove_repository orgs_api.remove_team_member orgs_api.resend_invitation orgs_api.switch_repository
orgs_api.withdraw_invitation
"""
UNMADE = {"atlas.concept", "conversations.turn_events"}
"""Pages of what no row stands for, a mapped project and a turn; their rooms open them."""
MONEY = "organisation_seats_api.end_subscription organisation_seats_api.start_setup"
SPENDERS = """
budgets.ask playground.send threads.answer_again threads.begin_thread threads.resume threads.send_message
assistants.add_assistant projects.add_project runners.add_runner runners.end_runner
"""
ROW_FIRST = """
assistants.add_documents assistants.begin_test assistants.call_tool assistants.change_tool assistants.delete assistants.drop_secret
assistants.duplicate assistants.publish assistants.remove_document assistants.remove_tool assistants.restore
assistants.restore_content assistants.save
projects.add_workspace projects.delete projects.delete_workspace projects.make_main projects.remove_variable projects.restore
projects.execute_preview projects.prepare_preview projects.save_settings projects.set_variable projects.store_drift projects.undo
atlas.deny atlas.describe_part atlas.index_now atlas.save_correction atlas.take_back conversations.answer conversations.begin_conversation conversations.branch conversations.empty_conversation
conversations.resume conversations.save conversations.save_settings conversations.send_prompt conversations.stop_answer
deployments.add_credential deployments.deploy_snapshot deployments.release deployments.remove_credential
deployments.remove_resource deployments.save_ship_settings deployments.take_offline insights.add_decision insights.add_item
insights.analyse_again insights.change insights.change_step insights.look_for_decisions insights.propose_steps insights.review
insights.read_for_decisions insights.save_decision_settings insights.suggest_steps
item_runs.apply item_runs.begin_rebase item_runs.begin_run item_runs.resume item_runs.save_checks item_runs.stop
"""
"""Answer 404 for what is not there, whatever the role; the tests of their rooms try their roles with rows."""
THEMSELVES = """
credits.dismiss orgs.authorize_personal_key
orgs.create_org_key orgs.dismiss_alert orgs.enter_in_emergency orgs.join_by_domain orgs.leave orgs.restore
orgs.change_org_key_rules orgs.revoke_org_key orgs.rotate_org_key orgs.set_key_team orgs_api.create_org_key orgs_api.dismiss_org_alert orgs_api.edit_org_key
orgs_api.revoke_org_key runs.revoke runs.score runs.share runs.tags
threads.attach threads.choose_branch threads.delete threads.detach threads.restore threads.revoke_link threads.save_settings
threads.share threads.stop_answer
"""
"""For oneself: keys, alerts, runs and memberships of others do not exist here (tested with the parts)."""
BODY_FIRST = "orgs_api.add_members organisation_credits_api.buy_organisation_credits"
"""The contract checks their bodies before the membership."""
WITH_STRIPE = """
billing.add_card billing.buy billing.confirm_own_topup billing.end_seats billing.portal billing.remove
billing.retry_topup billing.save_auto_topup billing.save_details billing.set_default billing.subscribe_seats
"""
"""Closed without Stripe; tests/billing tries their roles."""
REFUSED = {
    OWNERS: "carol bob dave vic",
    ADMINS: "bob dave vic",
    MONEY: "bob vic",
    SPENDERS: "dave vic",
    THEMSELVES: "",
    BODY_FIRST: "",
    WITH_STRIPE: "",
    ROW_FIRST: "",
}
"""Who in the organisation is refused."""


def org_rules(app: Flask) -> Iterator[tuple[Rule, str]]:
    """The routes of one organisation, by method; those of operators are tried in tests/admin."""
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/api/admin/"):
            continue
        if "org_id" in rule.arguments or (rule.rule.startswith("/orgs/<slug>") and "slug" in rule.arguments):
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield rule, method


@pytest.fixture
def csrf() -> dict[str, str]:
    """CSRF tokens by person, filled by `ask`."""
    return {}


def ask(
    who: Person, method: str, path: str, csrf: dict[str, str], body: dict[str, Any] | None = None
) -> TestResponse:
    if method == "GET":
        return who.browser.get(path, headers={"HX-Request": "true"} if path.endswith("/row") else {})
    if path.startswith("/api/"):
        return who.browser.open(path, method=method, json=None if method == "DELETE" else body or {})
    if who.id not in csrf:
        found = re.search(
            r'name="csrf_token" value="([^"]+)"', who.browser.get("/orgs/new" if who.user else "/login").text
        )
        csrf[who.id] = found[1] if found else ""
    return who.browser.open(path, method=method, data={"csrf_token": csrf[who.id], **(body or {})})


@pytest.fixture
def ids(acme: Org, alice: Person, bob: Person, carol: Person) -> dict[str, str]:
    """An id of acme's for each argument of a route."""
    assert alice.user is not None
    assert bob.user is not None
    assert carol.user is not None
    return rows_of(acme, alice.user, bob.user, carol.user)


def test_ids_of_another_organisation_do_not_exist(
    app: Flask,
    session: OrmSession,
    acme: Org,
    alice: Person,
    mallory: Person,
    ids: dict[str, str],
    csrf: dict[str, str],
) -> None:
    assert mallory.user is not None
    factories.org(mallory.user, "Rival", slug="rival")
    before, found = _rows(acme), []
    tried = 0
    for rule, method in org_rules(app):
        if rule.rule.count("<") < 2 or rule.endpoint in BY_ACCOUNT:
            continue
        path = path_of(rule, "rival", ids)
        answer = ask(mallory, method, path, csrf, BODIES.get(rule.endpoint))
        if answer.status_code != OTHERWISE.get(rule.endpoint, 404):
            found.append((method, path, answer.status_code))
        tried += 1
        if tried % 20 == 0:
            limiter.reset()
    assert (found, tried > 60) == ([], True)
    session.rollback()
    assert _rows(acme) == before
    # the ids are real: their owner opens them
    for rule, method in org_rules(app):
        named = rule.rule.count("<") > 1 and not rule.endpoint.startswith("billing.")
        if method == "GET" and named and "callback" not in rule.rule:
            path = path_of(rule, "acme", ids)
            if rule.endpoint not in UNMADE and alice.browser.get(path).status_code >= 400:
                found.append(("GET", path, 200))
    assert found == []


def _rows(org: Org) -> dict[str, list[str]]:
    """All rows of the organisation, as text by table."""
    found = {}
    for table in db.metadata.sorted_tables:
        column = next((each for each in ("org_id", "account_id") if each in table.c), None)
        if column:
            query = text(f'SELECT t::text FROM "{table.name}" t WHERE "{column}" = :org ORDER BY 1')
            found[table.name] = list(db.session.scalars(query, {"org": org.id}))
    return found


def test_changes_are_refused_by_role(
    app: Flask,
    acme: Org,
    bob: Person,
    carol: Person,
    dave: Person,
    mallory: Person,
    anonymous: Person,
    csrf: dict[str, str],
) -> None:
    vic = factories.person(app, "vic")
    factories.join(acme, vic.id, "viewer")
    cast = {"bob": bob, "carol": carol, "dave": dave, "vic": vic}
    groups = {endpoint: group for group in REFUSED for endpoint in group.split()}
    routes = [(rule, method) for rule, method in org_rules(app) if method in UNSAFE]
    assert {rule.endpoint for rule, _ in routes} == set(groups), "list each route with who may use it"
    found = []
    for rule, method in routes:
        group = groups[rule.endpoint]
        refused = dict.fromkeys(REFUSED[group].split(), 403)
        if not refused:
            continue
        path = re.sub(r"<[^>]+>", "nothing", re.sub("<(slug|org_id)>", "acme", rule.rule))
        people = {name: cast[name] for name in refused} | {"mallory": mallory, "anonymous": anonymous}
        expected = refused | {"mallory": 404, "anonymous": 401 if path.startswith("/api/") else 303}
        for name, who in people.items():
            status = ask(who, method, path, csrf, BODIES.get(rule.endpoint)).status_code
            if status != expected[name]:
                found.append((name, method, path, status))
        limiter.reset()
    assert found == []
