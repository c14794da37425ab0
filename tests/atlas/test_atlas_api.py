"""The JSON routes of maps: the shapes of the contract, bad input, and each route as each of the cast."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.ledger import Account
from tests.atlas.atlas_rows import Shop, shop_rows
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi


def test_the_map_answers_dependencies_from_both_ends(mine: ProjectsApi, shop: Shop) -> None:
    status, body = mine("get", f"/projects/{shop.project}/atlas")
    assert status == 200
    concepts = {each["id"]: each for each in body["concepts"]}
    assert concepts["code:shop/money.py"]["source_snapshot_id"] == shop.snapshot
    assert {each["layer"] for each in body["concepts"]} == {"system", "module", "code"}
    pairs = {(each["type"], each["from_concept_id"], each["to_concept_id"]) for each in body["edges"]}
    assert ("depends_on", "code:shop/app.py", "code:shop/money.py") in pairs
    assert ("used_by", "code:shop/money.py", "code:shop/app.py") in pairs
    assert ("contains", "system:shop", "module:shop/cart") in pairs
    assert len({each["id"] for each in body["edges"]}) == len(body["edges"])


def test_index_counts_what_the_map_holds(session: OrmSession, mine: ProjectsApi, alice: Person) -> None:
    shop = shop_rows(alice.id, Account(user_id=alice.id))
    session.commit()
    status, body = mine("post", f"/projects/{shop.project}/atlas/index", {"max_files": 20})
    assert status == 200
    assert body["unread"] == 0
    assert body["concepts"] == len(mine("get", f"/projects/{shop.project}/atlas")[1]["concepts"])
    assert body["chunks"] >= 8
    empty = mine.project("Empty")
    assert mine("post", f"/projects/{empty}/atlas/index")[0] == 404


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("basket total", "code:shop/cart/basket.py"),
        ("to_cents", "code:shop/money.py"),
        ("Basket", "code:shop/cart/basket.py"),
        ("amount in cents", "code:shop/money.py"),
        ("sells tea", "code:README.md"),
        ("test cents", "code:tests/test_money.py"),
        ("web", "system:web"),
    ],
)
def test_search_finds(mine: ProjectsApi, shop: Shop, query: str, best: str) -> None:
    status, body = mine("post", f"/projects/{shop.project}/atlas/search", {"query": query, "limit": 3})
    assert status == 200
    assert body["results"][0]["id"] == best
    assert len({each["id"] for each in body["results"]}) == len(body["results"])


def test_search_goes_by_names_before_the_first_index(
    session: OrmSession, mine: ProjectsApi, alice: Person
) -> None:
    shop = shop_rows(alice.id, Account(user_id=alice.id))
    session.commit()
    body = mine("post", f"/projects/{shop.project}/atlas/search", {"query": "money"})[1]
    assert [each["id"] for each in body["results"]] == ["code:shop/money.py", "code:tests/test_money.py"]
    assert mine("post", f"/projects/{shop.project}/atlas/search", {"query": "  "})[1] == {"results": []}


@pytest.mark.parametrize("type", ["flow", "dependency", "component", "sequence"])
def test_diagrams_are_kept_in_the_shape_of_the_contract(mine: ProjectsApi, shop: Shop, type: str) -> None:
    status, body = mine("post", f"/projects/{shop.project}/atlas/diagrams", {"type": type})
    assert status == 200
    data = json.loads(body["diagram"]["data"])
    assert data["id"].startswith("diag-")
    assert data["type"] == type
    ids = {each["id"] for each in data["nodes"]}
    assert {each[end] for each in data["edges"] for end in ("from", "to")} <= ids
    listed = mine("get", f"/projects/{shop.project}/atlas/diagrams")[1]["diagrams"]
    assert listed[0] == body["diagram"]
    about = {"concept_id": "code:shop/money.py", "type": type}
    assert mine("post", f"/projects/{shop.project}/atlas/diagrams", about)[0] == 200
    of_concept = mine("get", f"/projects/{shop.project}/atlas/diagrams?concept_id=code:shop/money.py")[1][
        "diagrams"
    ]
    assert len(of_concept) == 1


def test_the_four_diagrams_differ(mine: ProjectsApi, shop: Shop) -> None:
    def shown(type: str) -> Any:
        body = mine("post", f"/projects/{shop.project}/atlas/diagrams", {"type": type})[1]
        data = json.loads(body["diagram"]["data"])
        return data["nodes"], data["edges"]

    found = [shown(type) for type in ("flow", "dependency", "sequence")]
    assert all(found.count(each) == 1 for each in found)
    labels = [each["label"] for each in found[0][0]]
    assert labels[0] == "main"
    assert {"Basket", "Basket.add", "Basket.total", "to_cents"} <= set(labels)


def test_symbols_dependents_and_outline(mine: ProjectsApi, shop: Shop) -> None:
    status, body = mine("get", f"/projects/{shop.project}/atlas/symbols?name=to_cents")
    assert status == 200
    assert [(each["path"], each["line"]) for each in body["definitions"]] == [("shop/money.py", 5)]
    assert {each["path"]: each["sure"] for each in body["files"]} == {
        "shop/app.py": True,
        "shop/cart/basket.py": True,
        "tests/test_money.py": True,
    }
    found = mine("get", f"/projects/{shop.project}/atlas/symbols?name=Basket.add")[1]
    assert [each["symbol"] for each in found["definitions"]] == ["Basket.add"]
    reached = mine("get", f"/projects/{shop.project}/atlas/dependents?concept_id=code:shop/cart/basket.py")[1]
    assert [each["concept_id"] for each in reached["dependents"]] == ["code:shop/app.py"]
    outline = mine("get", f"/projects/{shop.project}/atlas/outline?concept_id=code:shop/cart/basket.py")[1]
    assert [each["symbol"] for each in outline["definitions"]] == ["Basket", "Basket.add", "Basket.total"]


def test_the_export_keeps_to_its_budget(mine: ProjectsApi, shop: Shop) -> None:
    answer = mine.raw("get", f"/projects/{shop.project}/atlas/export")
    assert answer.mimetype == "text/plain"
    assert "- shop/money.py: to_cents" in answer.text
    short = mine.raw("get", f"/projects/{shop.project}/atlas/export?tokens=200")
    assert len(short.text) < 1_200
    assert mine.raw("get", f"/projects/{shop.project}/atlas/export?tokens=1").status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("atlas/index", {"max_files": 1}, 422),
        ("atlas/index", {"max_files": "many"}, 422),
        ("atlas/search", {}, 422),
        ("atlas/search", {"query": 3}, 422),
        ("atlas/search", {"query": "a", "limit": 21}, 422),
        ("atlas/search", {"query": "x" * 501}, 422),
        ("atlas/search", {"query": "a\0b"}, 400),
        ("atlas/diagrams", {"type": "pie"}, 422),
        ("atlas/diagrams", {"concept_id": "code:none"}, 404),
        ("atlas/diagrams", [], 422),
    ],
)
def test_bad_input_says_what_is_wrong(
    mine: ProjectsApi, shop: Shop, path: str, body: Any, expected: int
) -> None:
    status, answer = mine("post", f"/projects/{shop.project}/{path}", body)
    assert status == expected, answer
    assert answer["error"]["message"]


ROUTES = [
    ("get", "atlas", None),
    ("post", "atlas/index", {}),
    ("post", "atlas/search", {"query": "a"}),
    ("get", "atlas/diagrams", None),
    ("post", "atlas/diagrams", {}),
    ("get", "atlas/symbols?name=a", None),
    ("get", "atlas/dependents?concept_id=system:web", None),
    ("get", "atlas/outline?concept_id=system:web", None),
    ("get", "atlas/export", None),
]


def test_strangers_get_what_they_get_for_no_project_at_all(
    client: FlaskClient, mallory: Person, anonymous: Person, shop: Shop
) -> None:
    stranger = ProjectsApi(client, mallory)
    for method, path, body in ROUTES:
        refused = stranger(method, f"/projects/{shop.project}/{path}", body)
        assert refused == stranger(method, f"/projects/none/{path}", body)
        assert refused[0] == 404
        nobody = client.open(f"/v1/projects/{shop.project}/{path}", method=method, json=body)
        assert nobody.status_code == 401
