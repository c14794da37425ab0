"""Every fault of every provider: one clear sentence, tried again where that helps, and never called a success."""

from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from models.deployments import Deployment, provider_calls
from models.insights import ActionItem
from models.insights.item_verbs import kept_item
from models.ledger import Account
from tests.deployments.deployment_calls import SITE, SiteCalls
from tests.deployments.provider_runs import PLACES, choose, log_of, newest, reach, step
from tests.fakes.deploy_providers import FakeProviders, providers
from tests.projects.project_rows import caller_of

__all__ = ["providers"]

Fault = tuple[int, dict[str, str]] | str
NAMES = {"cloudflare": "Cloudflare", "railway": "Railway", "webhook": "The CI"}
FINAL: list[tuple[Fault, dict[str, str]]] = [
    (
        (401, {}),
        {
            "cloudflare": "Cloudflare no longer accepts the token. Store a new one under Connections.",
            "railway": "Railway no longer accepts the token. Store a new one under Connections.",
            "webhook": "The CI answered 401: it does not accept the request. Compare the secret there with that of the settings.",
        },
    ),
    (
        (403, {}),
        {
            "cloudflare": "Cloudflare does not allow this to the token: Told by the fake. Store one with more rights under Connections.",
            "railway": "Railway does not allow this to the token: Told by the fake. Store one with more rights under Connections.",
            "webhook": "The CI answered 403: it does not accept the request. Compare the secret there with that of the settings.",
        },
    ),
    (
        (418, {}),
        {
            "cloudflare": "Cloudflare answered 418: Told by the fake.",
            "railway": "Railway answered 418: Told by the fake.",
            "webhook": "The CI answered 418.",
        },
    ),
    (
        (302, {"Location": "https://elsewhere.example"}),
        {
            "cloudflare": "Cloudflare answered 302: Told by the fake.",
            "railway": "Railway answered 302: Told by the fake.",
            "webhook": "The CI answered 302.",
        },
    ),
    (
        "garbage",
        {
            "cloudflare": "Cloudflare does not answer as expected.",
            "railway": "Railway does not answer as expected.",
        },
    ),
    (
        (429, {"Retry-After": "7200"}),
        {
            "cloudflare": "Cloudflare allows no more calls for now.",
            "railway": "Railway allows no more calls for now.",
        },
    ),
]
PASSING: list[tuple[Fault, float | None, dict[str, str]]] = [
    (
        (429, {"Retry-After": "7"}),
        7,
        {"": "{} allows no more calls for now.", "webhook": "The CI answered 429."},
    ),
    ((500, {}), None, {"": "{} answered 500: Told by the fake.", "webhook": "The CI answered 500."}),
    (
        (503, {"Retry-After": "11"}),
        11,
        {"": "{} answered 503: Told by the fake.", "webhook": "The CI answered 503."},
    ),
    ("slow", None, {"": "{} did not answer within 0 seconds.", "webhook": "The CI cannot be reached."}),
]


@pytest.fixture(autouse=True)
def reached(app: Flask, providers: FakeProviders, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server calls the fakes."""
    reach(app, providers, monkeypatch)


@pytest.fixture
def begin(pier: SiteCalls, providers: FakeProviders) -> Callable[[str], None]:
    """Begins a deployment to a place."""

    def start(place: str) -> None:
        pier.push(SITE)
        choose(pier, providers, place)
        assert pier.deploy()["status"] == "deploying"

    return start


def wait_of(session: OrmSession) -> float:
    """In how many seconds the newest job is due, about."""
    query = "SELECT extract(epoch FROM scheduled_at - now()) FROM procrastinate_jobs WHERE task_name = 'deployments.run'"
    return float(session.execute(text(f"{query} ORDER BY id DESC LIMIT 1")).scalar_one() or 0)


@pytest.mark.parametrize("place", PLACES)
def test_a_final_fault_fails_with_one_sentence(
    pier: SiteCalls,
    session: OrmSession,
    providers: FakeProviders,
    begin: Callable[[str], None],
    place: str,
) -> None:
    begin(place)
    first = True
    for fault, sentences in FINAL:
        if place not in sentences:
            continue
        if not first:
            pier.deploy()
        first = False
        providers.fault = fault
        row = step(session)
        assert (row.status, row.error) == ("failed", sentences[place]), fault
        assert (row.released_at, row.url) == (None, None)
        assert log_of(pier, row).count(sentences[place]) == 1
        providers.fault = None


@pytest.mark.parametrize("place", PLACES)
def test_a_passing_fault_is_tried_again_and_fails_only_after_several_times(
    pier: SiteCalls,
    session: OrmSession,
    providers: FakeProviders,
    begin: Callable[[str], None],
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin(place)
    first = True
    for fault, seconds, sentences in PASSING:
        sentence = sentences.get(place, sentences[""]).format(NAMES[place])
        if not first:
            pier.deploy()
        first = False
        with monkeypatch.context() as hurried:
            if fault == "slow":
                hurried.setattr(provider_calls, "SECONDS", 0.2)
                hurried.setattr(
                    "models.core.outgoing.guarded.__kwdefaults__", {"seconds": 0.2, "max_bytes": 1_000}
                )
            providers.fault = fault
            row = step(session)
            assert (row.status, row.error) == ("deploying", None), fault
            assert f"{sentence} It is tried again in" in log_of(pier, row)
            if seconds is not None and place != "webhook":
                assert seconds - 5 < wait_of(session) <= seconds
            providers.fault = None
            assert step(session, 2).error is None, fault
            row = newest(session)
            if place == "webhook":
                assert row.state == "releasing"
                report = f"/infrastructure/deployments/{row.id}/status"
                assert pier.api("post", report, {"status": "success"})[0] == 200
            assert newest(session).status == "success"
    pier.deploy()
    providers.fault = (500, {})
    assert step(session, 4).status == "deploying"
    row = step(session)
    assert (row.status, row.error) == (
        "failed",
        PASSING[1][2].get(place, PASSING[1][2][""]).format(NAMES[place]),
    )
    providers.fault = None
    assert step(session).status == "failed"


@pytest.mark.parametrize(
    ("states", "answer", "problem"),
    [
        (["QUEUED", "BUILDING", "FAILED"], 200, "Railway could not build or start it."),
        (["DEPLOYING", "CRASHED"], 200, "It crashed after Railway started it."),
        (
            ["REMOVED"],
            200,
            "Railway removed it: a newer deployment replaced it, or somebody took it down there.",
        ),
        (["SKIPPED"], 200, "Railway skipped it."),
        (["NEEDS_APPROVAL"], 200, "Railway waits for somebody to approve it there."),
        (
            ["BUILDING", "FROZEN"],
            200,
            "Railway says FROZEN of it, which this server does not know, after 3 looks. Look there.",
        ),
        (["BUILDING"], 200, "Railway is still at work on it, after 3 looks. Look there."),
        (["SUCCESS"], 502, "Railway says that it runs, but its address answers 502."),
        (["SUCCESS"], None, "Railway says that it runs, but its address cannot be reached."),
        (["SUCCESS"], 0, "Railway says that it runs, but nothing answers at its address."),
        (["INITIALIZING", "WAITING", "SUCCESS"], 404, None),
        (["SLEEPING"], 200, None),
    ],
)
def test_what_railway_says_and_its_address_answers_decide(
    pier: SiteCalls,
    session: OrmSession,
    providers: FakeProviders,
    begin: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    states: list[str],
    answer: int | None,
    problem: str | None,
) -> None:
    from models.deployments import railway_adapter
    from tests.deployments.provider_runs import addresses_answer

    monkeypatch.setattr(railway_adapter, "MAX_POLLS", 3)
    monkeypatch.setattr(railway_adapter, "TRIES", 2)
    addresses_answer(
        monkeypatch,
        answer or (404 if answer == 0 else None),
        {"x-railway-fallback": "true"} if answer == 0 else {},
    )
    providers.railway.states = states
    begin("railway")
    seen = []
    for _ in range(5):
        row = step(session)
        seen.append(row.status)
    assert row.error == problem
    assert row.status == ("failed" if problem else "success")
    assert "success" not in seen or problem is None
    assert len(providers.railway.uploads) == 1
    assert providers.railway.uploads[0] == {name: data.encode() for name, data in SITE.items()}


def test_a_credential_that_is_removed_meanwhile_fails_it(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders, begin: Callable[[str], None]
) -> None:
    for place in ("cloudflare", "railway"):
        begin(place)
        pier.api("delete", f"/infrastructure/credentials/{place}")
        assert step(session).error == f"The token of {NAMES[place]} was removed."
        made = pier.deploy()
        assert (made["status"], made["error"]) == (
            "failed",
            f"Add a token of {NAMES[place]} under Connections.",
        )
    assert session.query(Deployment).filter_by(state="live").count() == 0


@pytest.mark.parametrize("place", PLACES)
def test_an_item_of_a_failure_ends_when_a_later_deployment_is_live(
    pier: SiteCalls,
    session: OrmSession,
    providers: FakeProviders,
    begin: Callable[[str], None],
    place: str,
) -> None:
    begin(place)
    providers.fault = (418, {})
    failed = step(session)
    listed = pier.api("get", "/action-items")[1]["items"]
    assert [each["id"] for each in listed] == [f"deploy-{failed.id}"]
    # somebody works on it, so it is stored
    caller = caller_of(failed.user_id or "", Account(user_id=failed.user_id))
    stored = kept_item(caller, f"deploy-{failed.id}").item
    session.commit()
    assert stored.status == "pending"
    providers.fault = None
    pier.deploy()
    row = step(session)
    if place == "webhook":
        pier.api("post", f"/infrastructure/deployments/{row.id}/status", {"status": "success"})
    assert newest(session).state == "live"
    assert pier.api("get", "/action-items")[1]["items"] == []
    assert session.get_one(ActionItem, stored.id).status == "resolved"
