"""The list of all pages, from the map of URLs: who opens which address. A new page route is walked, or fails until listed here.

To add a page: give its arguments in `page_world`. To leave out a route that answers with something else: name it in `NOT_PAGES`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from flask import Flask
from werkzeug.routing import Rule

from tests.orgs.org_rows import path_of
from tests.web.page_world import PageWorld
from views.accounts.pages import profile
from views.web.api_reference import area_slug
from views.web.openapi import TAGS

NOT_PAGES = {
    "a file": """
        accounts.download_export admin_audit.file agent.card agent.definition assets.stylesheet avatars.avatar billing.credit_note_pdf client_archive.download
        billing.receipt_pdf billing.statement_file billing.statement_pdf documents.content feeds.everything feeds.of_publisher feeds.part
        feeds.sitemap health.alive health.prometheus health.readyz insights.decisions_file launcher.download ledger.heads orgs.archive orgs.audit_file
        orgs.export_usage projects.download pages.favicon pages.robots publishers.card runs.export static store.picture threads.export usage.call_request
        usage.calls_export usage.export
    """,
    "a redirect": """
        accounts.export_state accounts.start admin.file_picker agent.latest agent.newest billing.cancelled billing.own_topup_confirmed billing.plan_not_started
        billing.seat_setup billing.statement_address budgets.find_budget codebuff_extras.config codebuff_extras.releases orgs.sso_callback orgs.start_sso pages.api_keys
        orgs.analytics pages.docs pages.usage referrals.moved versions.choose
    """,
    "a stream": "conversations.turn_events threads.turn_events",
    "a fragment": "playground.figures runs.row",
    "JSON for a script": "accounts.new_passkey_options accounts.passkey_options",
    "needs a state of Stripe; tests/billing opens it": """
        billing.confirmation billing.payment billing.plan_started billing.preview_change billing.review_plan billing.seats billing.ask_end
    """,
}
WITH_QUERY = {
    "atlas.concept": "id=code:src/columns.py",
    "atlas.find": "q=columns",
    "accounts.onboard": "auth_code={auth_code}",
    "billing.details": "credits=2500",
    "billing.review": "amount=custom&credits=9000",
    "projects.snapshot": "id={snapshot_id}",
    "projects.sync_file": "path=README.md",
}
"""Pages that need a query."""
OF_A_PERSON_ONLY = {"billing.purchase", "billing.review", "billing.ask_removal", "billing.grant_page"}
"""Pages of an organisation that show what only Stripe or the ledger gives; the demo user's are the same."""
MORE = [
    ("anonymous", "/nothing-here"),
    ("anonymous", "/shared/nothing"),
    ("anonymous", "/shared/threads/nothing"),
    ("anonymous", "/login/link/none"),
    ("anonymous", "/docs/api?q=usage"),
    ("anonymous", "/store?q=zzz"),
    ("anonymous", "/publishers/harbor"),
    ("anonymous", "/publishers/harbor/agents/code-reviewer/2.4.1"),
    ("person", "/calls?status=failed"),
    ("person", "/runs?agent=zzz"),
    ("person", "/assistants?deleted=1"),
    ("person", "/assistants?q=zzz"),
    ("person", "/projects?deleted=1"),
    ("person", "/projects?q=zzz"),
    ("person", "/projects/new?step=2&name=Pier"),
    ("person", "/projects/new?step=3&name=Pier&intent=fun"),
    ("person", "/threads?deleted=1"),
    ("person", "/threads?q=columns"),
    ("person", "/threads?q=zzz"),
    ("person", "/runs?when=custom&from=2026-02-20&to=2026-02-01&spawned=1"),
    ("person", "/profile?tab=usage&by=key&range=30d"),
    ("operator", "/admin?q=example.org"),
]
"""States beside the filled and the empty one: missing pages, filters, searches."""
STATUSES = {
    "/nothing-here": 404,
    "/shared/nothing": 404,
    "/shared/threads/nothing": 404,
    "/login/link/none": 410,
    "/publishers/delia/owner": 409,
    "/admin/evals/comparison": 422,
    "newcomer /profile/plan/cancellation": 404,
    "/calls?status=failed": 422,
    "/runs?when=custom&from=2026-02-20&to=2026-02-01&spawned=1": 422,
}
"""Where it is not 200: missing pages, wrong filters, and what the viewer does not have."""
ANYBODYS = ("/login", "/docs", "/store", "/verify", "/shared", "/pricing", "/emails", "/referrals/")


@dataclass(frozen=True)
class Visit:
    """An address, and who opens it: a name of `PageWorld.people`, or `anonymous`."""

    who: str
    path: str
    page: str = field(default="", compare=False)
    """What it is a state of: its endpoint, or a tab."""

    @property
    def status(self) -> int:
        """The status of the answer."""
        return STATUSES.get(self.path, STATUSES.get(f"{self.who} {self.path}", 200))


def page_rules(app: Flask) -> Iterator[Rule]:
    """The routes that answer GET with a page."""
    others = {endpoint for names in NOT_PAGES.values() for endpoint in names.split()}
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        shown = "GET" in (rule.methods or ()) and not rule.rule.startswith(
            ("/api/", "/v1", "/scim/", "/.well-known/", "/managed/")
        )
        if shown and rule.endpoint not in others:
            yield rule


def visits(app: Flask, world: PageWorld) -> list[Visit]:
    """All pages filled, those without ids empty too, and `MORE`."""
    found: list[Visit] = []
    unknown = []
    for rule in page_rules(app):
        try:
            found += [Visit(who, path, rule.endpoint) for who, path in _states(rule, world)]
        except KeyError:
            unknown.append(f"{rule.rule} ({rule.endpoint})")
    assert not unknown, (
        f"new pages: name their arguments in page_world.py, or what else they are in NOT_PAGES: {unknown}"
    )
    for name in sorted(profile._tabs):
        found += [Visit(who, f"/profile?tab={name}", f"tab {name}") for who in ("person", "newcomer")]
    return list(dict.fromkeys([*found, *(Visit(who, path, path) for who, path in MORE)]))


def one_state_each(every: list[Visit]) -> list[Visit]:
    """The first state of each page."""
    return list({visit.page: visit for visit in reversed(every)}.values())[::-1]


def _states(rule: Rule, world: PageWorld) -> Iterator[tuple[str, str]]:
    """Who opens which address of the route."""
    if "slug" in rule.arguments:
        if rule.endpoint in OF_A_PERSON_ONLY:
            return
        yield ("owner", _address(rule, "acme", world.acme))
        if len(rule.arguments) == 1:
            yield ("founder", _address(rule, "demo-quarry", world.acme))
            yield ("newcomer", _address(rule, "newco", world.acme))
        return
    if rule.endpoint == "docs.area":
        yield from (("anonymous", f"/docs/api/{area_slug(tag)}") for tag in TAGS)
        return
    address = _address(rule, "", world.own)
    if rule.rule.startswith("/admin"):
        yield ("operator", address)
        return
    public = rule.rule == "/" or rule.rule.startswith(ANYBODYS)
    yield ("anonymous" if public else "person", address)
    if (
        not rule.arguments
        and not public
        and rule.endpoint not in WITH_QUERY
        and rule.endpoint != "profile.profile"
    ):
        yield ("newcomer", address)


def _address(rule: Rule, slug: str, ids: dict[str, str]) -> str:
    path = path_of(rule, slug, ids)
    query = WITH_QUERY.get(rule.endpoint)
    return f"{path}?{query.format_map(ids)}" if query else path
