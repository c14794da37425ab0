"""The tab Knowledge: the map and its four diagrams, search with lines, a part of the project, and who may see and index it."""

import re
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.atlas import AtlasIndex
from models.core.db import now
from models.core.job_failures import JobFailure
from models.ledger import Account
from tests.atlas.atlas_rows import SHOP, Shop, shop_rows
from tests.factories import Person


def send(who: Person, path: str, **data: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data})


@pytest.mark.parametrize("kind", ["dependency", "component", "flow", "sequence"])
def test_each_diagram_is_drawn_and_told(alice: Person, shop: Shop, kind: str) -> None:
    page = alice.browser.get(f"/projects/{shop.project}/knowledge?diagram={kind}")
    assert page.status_code == 200
    if kind == "sequence":
        assert "No run of an agent has changed this project yet" in page.text
        return
    assert "<svg width=" in page.text
    assert "The same as a table" in page.text
    assert "flowchart LR" in page.text
    assert {"dependency": "shop/cart", "component": "web/src", "flow": "Basket.total"}[kind] in page.text


def test_a_search_hit_links_to_its_line(alice: Person, shop: Shop) -> None:
    page = alice.browser.get(f"/projects/{shop.project}/knowledge/search?q=amount+in+cents").text
    assert f"/projects/{shop.project}/files?path=shop/money.py#L5" in page
    part = alice.browser.get(
        f"/projects/{shop.project}/knowledge/search?q=cents", headers={"HX-Request": "true"}
    ).text
    assert part.lstrip().startswith('<div class="stack stack--wide" id="found">')
    assert "Nothing about" in alice.browser.get(f"/projects/{shop.project}/knowledge/search?q=zebra").text


def test_a_symbol_shows_who_uses_it(alice: Person, shop: Shop) -> None:
    page = alice.browser.get(f"/projects/{shop.project}/knowledge/search?mode=symbol&q=to_cents").text
    assert "shop/money.py:5" in page
    for line, path in ((9, "shop/app.py"), (9, "shop/cart/basket.py"), (5, "tests/test_money.py")):
        assert f"files?path={path}#L{line}" in page
    assert (
        "Nothing has the name"
        in alice.browser.get(f"/projects/{shop.project}/knowledge/search?mode=symbol&q=zebra").text
    )


def test_a_part_shows_what_is_around_it(alice: Person, shop: Shop) -> None:
    page = alice.browser.get(f"/projects/{shop.project}/knowledge/concept?id=code:shop/money.py").text
    for said in ("to_cents", "code:shop/app.py", "code:tests/test_money.py", "files?path=shop/app.py#L3"):
        assert said in page
    assert alice.browser.get(f"/projects/{shop.project}/knowledge/concept?id=code:none").status_code == 404
    assert alice.browser.get(f"/projects/{shop.project}/knowledge/concept?id=system:web").status_code == 200


def test_without_an_index_the_page_offers_one(session: OrmSession, alice: Person) -> None:
    shop = shop_rows(alice.id, Account(user_id=alice.id), {"README.md": SHOP["README.md"]})
    session.commit()
    for path in ("knowledge", "knowledge/search"):
        page = alice.browser.get(f"/projects/{shop.project}/{path}")
        assert "The map is being made" in page.text
    answer = send(alice, f"/projects/{shop.project}/knowledge/index")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/projects/{shop.project}/knowledge")


def test_strangers_see_and_index_nothing(mallory: Person, anonymous: Person, shop: Shop) -> None:
    for path in ("knowledge", "knowledge/search", "knowledge/concept?id=system:web"):
        assert mallory.browser.get(f"/projects/{shop.project}/{path}").status_code == 404
    assert send(mallory, f"/projects/{shop.project}/knowledge/index").status_code == 404
    assert anonymous.browser.get(f"/projects/{shop.project}/knowledge").status_code in (302, 303)
    assert send(anonymous, f"/projects/{shop.project}/knowledge/index").status_code in (302, 303, 401)


def gave_up(session: OrmSession, project: str) -> None:
    """The job of the map failed for good."""
    session.execute(text("DELETE FROM procrastinate_jobs"))
    made = (
        "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, status) VALUES ('default', 'atlas.index', :lock, 'failed')"
        " RETURNING id"
    )
    id = session.scalar(text(made), {"lock": f"atlas {project}"})
    session.add(JobFailure(job_id=id, task="atlas.index", error="OSError: secret path", trace="", at=now()))
    session.commit()


def test_the_page_says_how_the_map_stands(session: OrmSession, alice: Person, shop: Shop) -> None:
    address = f"/projects/{shop.project}/knowledge"
    index = session.get_one(AtlasIndex, shop.project)

    def said() -> str:
        session.commit()
        return " ".join(re.sub(r"<[^>]+>", " ", alice.browser.get(address).text).split())

    session.execute(text("DELETE FROM procrastinate_jobs"))
    assert "Up to date" in said()
    index.left_out = 3
    assert "3 left out because they are too many or have too long paths" in said()
    index.tree_hash = "0" * 64
    assert "Behind" in said(), "how many files changed is not known any more"
    index.tree_hash = ""
    assert "The files are being read" in said()
    gave_up(session, shop.project)
    page = said()
    assert "Failed" in page
    assert "secret path" not in page, "errors are for operators"


def test_a_map_that_could_not_be_made_can_be_tried_again(session: OrmSession, alice: Person) -> None:
    shop = shop_rows(alice.id, Account(user_id=alice.id))
    gave_up(session, shop.project)
    assert "The map could not be made" in alice.browser.get(f"/projects/{shop.project}/knowledge").text
    assert send(alice, f"/projects/{shop.project}/knowledge/index").status_code == 303
    assert "The map is being made" in alice.browser.get(f"/projects/{shop.project}/knowledge").text
