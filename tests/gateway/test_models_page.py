"""The page of models: who sees it, what it shows, and its filters."""

import html
import re
from datetime import timedelta
from decimal import Decimal

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.accounts import User
from models.core.db import now
from models.core.settings import Settings, load_settings
from models.gateway.model_catalogue import ModelFilter, find_models, served_models
from models.gateway.price_file import read_override
from models.gateway.pricing import PriceTable
from models.gateway.provider_health import count_calls
from models.gateway.routing import Router
from tests import factories
from tests.chromium import OpenPage, judge
from tests.factories import Person
from tests.server import serving
from views.gateway.api.model_calls import gateway

MARGIN = Decimal("0.055")
DEMOS = ["stoa/demo", "stoa/demo-embeddings"]


@pytest.fixture(scope="module")
def router(settings: Settings) -> Router:
    """Providers of all kinds but one, never called."""
    keys = dict.fromkeys(("openrouter_api_key", "openai_api_key", "anthropic_api_key"), "sk-test")
    entry = {
        "provider": "openai",
        "upstream_model": "gpt-image-1",
        "kind": "image",
        "image": {"1024x1024": "0.04", "default": "0.2"},
    }
    prices = PriceTable({"house/pictures": read_override("house/pictures", entry)})
    return Router(load_settings(_env_file=None, stoa_data_dir=settings.data_dir, **keys), prices)


@pytest.fixture
def served(app: Flask, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application serves the models of `router`."""
    monkeypatch.setattr(gateway(app), "routes", router)


def ids(page: str) -> list[str]:
    return [
        html.unescape(each)
        for each in re.findall(r'class="model-id" data-copy-scope><a [^>]+><code>([^<]+)<', page)
    ]


def test_it_requires_sign_in_unless_the_operator_says_otherwise(
    app: Flask, anonymous: Person, mallory: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = anonymous.browser.get("/models?search=x")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login?next=/models?search%3Dx")
    assert 'href="/models"' not in anonymous.browser.get("/store").text
    assert 'href="/models"' in mallory.browser.get("/runs").text
    assert mallory.browser.get("/models").status_code == 200
    monkeypatch.setitem(
        app.extensions, "settings", app.extensions["settings"].model_copy(update={"stoa_public_models": True})
    )
    assert anonymous.browser.get("/models").status_code == 200
    assert 'href="/models"' in anonymous.browser.get("/store").text


def test_without_a_key_operators_read_how_to_add_one(
    app: Flask, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = alice.browser.get("/models").text
    assert ids(page) == DEMOS
    assert "The operator has not set the API key of a provider yet." in page
    assert "OPENROUTER_API_KEY" not in page
    settings = app.extensions["settings"].model_copy(update={"stoa_admins": frozenset({"alice@example.org"})})
    monkeypatch.setitem(app.extensions, "settings", settings)
    assert "OPENROUTER_API_KEY" in alice.browser.get("/models").text


def words(part: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", part)).split())


def test_prices_include_the_margin(served: None, alice: Person) -> None:
    page = alice.browser.get("/models?search=anthropic/claude-sonnet-4.5").text
    row = re.search(r"<code>anthropic/claude-sonnet-4.5</code>.*?</tr>", page, re.DOTALL)
    assert row
    text = words(row[0])
    assert "$15.82 1,582.5 credits" in text
    assert "$0.013 1.27 credits" in text  # 667 tokens in, 667 out
    assert "prompt caching" in text
    assert ">Anthropic</td>" in row[0]
    link = re.search(r'href="(/models/[^"]+)"', page)
    assert link
    page = alice.browser.get(link[1]).text
    text = words(page)
    for part in (
        "Above 200,000",
        "Cache write, 1 hour",
        "$15.82 1,582.5 credits",
        "claude-sonnet-4-5",
        "Image input",
    ):
        assert part in text
    calls = re.search(r'href="(/calls[?]model=[^"]+)"', page)
    assert calls
    assert alice.browser.get(calls[1]).status_code == 200


def test_a_page_has_real_figures_and_code(
    served: None, session: OrmSession, alice: Person, mallory: Person
) -> None:
    user = session.get_one(User, alice.id)
    for ms, model in ((1_000, "claude-sonnet-4-5-20250929"), (3_000, "claude-sonnet-4-5")):
        at = now() - timedelta(minutes=5)
        message = factories.message(user, finished_at=at)
        factories.call(
            user, provider="anthropic", requested_model="anthropic/claude-sonnet-4.5", model=model, finished_at=at,
            message=message, latency_ms=ms, ttft_ms=ms // 2, output_tokens=100,
        )  # fmt: skip
    failed = {"state": "failed", "error": "upstream_timeout", "http_status": 504, "model": None}
    factories.call(
        user, provider="anthropic", requested_model="claude-sonnet-4.5", finished_at=now() - timedelta(minutes=5), **failed
    )  # fmt: skip
    session.commit()
    while count_calls(["anthropic"], now()):
        session.commit()
    session.commit()
    own = words(alice.browser.get("/models/anthropic/claude-sonnet-4.5").text)
    assert "Answered calls 2 2 Success rate 66.7% 66.7%" in own
    assert "Tokens per second 100 100" in own
    for days, who in ((7, mallory), (30, mallory)):
        page = who.browser.get(f"/models/anthropic/claude-sonnet-4.5?days={days}").text
        assert "Answered calls 2 0 Success rate 66.7% –" in words(page)
    assert 'model="anthropic/claude-sonnet-4.5"' in html.unescape(page)
    assert "Answered calls" not in alice.browser.get("/models/anthropic/claude-opus-4.5").text


def test_models_of_other_kinds_have_a_page(served: None, alice: Person) -> None:
    page = alice.browser.get("/models?can=image&search=house").text
    assert ids(page) == ["house/pictures"]
    assert "Each image $0.21" in words(page)
    text = words(alice.browser.get("/models/house/pictures").text)
    assert "Each image, 1024x1024 $0.042" in text
    assert "Generates images" in text
    assert "Try in the playground" not in text
    assert "Creates embeddings" in words(alice.browser.get("/models/stoa/demo-embeddings").text)


def test_who_sees_a_model_and_which(
    served: None, client: FlaskClient, alice: Person, anonymous: Person
) -> None:
    assert anonymous.browser.get("/models/stoa/demo").status_code == 302
    assert client.get("/models/stoa/demo", headers=alice.headers).status_code == 404
    assert alice.browser.get("/models/STOA/demo").status_code == 200
    for path in ("nobody/nothing", "%00", "stoa/demo?days=8", "openai/gpt-5:nitro"):
        assert alice.browser.get(f"/models/{path}").status_code == 404, path


def test_pages_follow_each_other(served: None, alice: Person, router: Router) -> None:
    found, href = [], "/models?provider=anthropic"
    while href:
        page = alice.browser.get(href).text
        found += ids(page)
        link = re.search(r'data-load-more><a class="btn" href="([^"]+)"', page)
        href = html.unescape(link[1]) if link else ""
    assert found == [
        each.id for each in served_models(router, MARGIN) if each.route.provider.name == "anthropic"
    ]
    rows = alice.browser.get("/models?after=stoa/demo", headers={"HX-Request": "true"}).text
    assert 'hx-swap-oob="beforeend:#model-rows"' in rows


@pytest.mark.parametrize(
    "query",
    [
        "provider=nobody",
        "sort=colour",
        "can=fly",
        "context=99",
        "price=cheap",
        "price=-1",
        "price=1e9",
        "price=٣",
        "price=99999999",
        f"search={'x' * 201}",
    ],
)
def test_bad_values_are_named_and_kept(client: FlaskClient, alice: Person, query: str) -> None:
    page = alice.browser.get(f"/models?{query}")
    assert page.status_code == 422
    assert 'aria-invalid="true"' in page.text


@pytest.mark.parametrize("query", ["after=nobody", "search=%00", "after=%00", "page=9", "price=$2,50"])
def test_harmless_values_list_models(alice: Person, query: str) -> None:
    assert ids(alice.browser.get(f"/models?{query}").text) == (DEMOS if "price" not in query else DEMOS[1:])


def test_filters_and_orders(router: Router) -> None:
    models = served_models(router, MARGIN)
    cheap = find_models(models, ModelFilter(max_output_price=Decimal(2), sort="output"))
    prices = [each.rates["output"] for each in cheap]
    assert prices == sorted(prices)
    assert 0 < len(prices) < len(models)
    assert max(prices) <= 2
    by_page = find_models(models, ModelFilter(sort="page", ability="image_input", context=200_000))
    costs = [each.page_cost for each in by_page if each.page_cost is not None]
    assert costs == sorted(costs)
    assert all(
        "image input" in each.capabilities and (each.context_window or 0) >= 200_000 for each in by_page
    )
    assert by_page
    by_context = find_models(models, ModelFilter(text="CLAUDE sonnet", sort="context"))
    windows = [each.context_window or 0 for each in by_context]
    assert windows == sorted(windows, reverse=True)
    assert all("claude" in f"{each.id} {each.title}".lower() for each in by_context)


@pytest.mark.browser
def test_models_are_searched_while_typing(
    served: None, app: Flask, alice: Person, open_page: OpenPage
) -> None:
    cookie = alice.browser.get_cookie("next-auth.session-token")
    assert cookie is not None
    with serving(app) as base, open_page(base, width=1440) as page:
        where = {"name": cookie.key, "value": cookie.value, "domain": "127.0.0.1", "path": "/"}
        page.context.add_cookies([where])  # type: ignore[list-item]
        page.goto("/models")
        page.get_by_role("searchbox", name="Name").press_sequentially("haiku", delay=10)
        page.wait_for_url("**/models?search=haiku")
        assert all("haiku" in each.lower() for each in page.locator("#model-rows tr").all_inner_texts())
        judge(page, 320, 390, 1440)
        page.goto("/docs/cli")
        judge(page, 320, 390, 1440)
