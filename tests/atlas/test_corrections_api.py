"""Corrections over HTTP: a person's word holds over the map's, survives each index, and can be undone."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.atlas import index_project
from models.core.jobs import transaction
from models.ledger import Account
from tests.atlas.atlas_rows import SHOP, Shop
from tests.atlas.words_answers import CARET, WordsAnswers
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi
from tests.projects.project_rows import caller_of, pushed

CART = "module:shop/cart"


def correct(api: ProjectsApi, shop: Shop, **body: Any) -> Any:
    status, answer = api("post", f"/projects/{shop.project}/atlas/corrections", body)
    assert status == 200, answer
    return answer["corrections"]


def concept(api: ProjectsApi, shop: Shop, id: str = CART) -> Any:
    found = api("get", f"/projects/{shop.project}/atlas")[1]["concepts"]
    return next(each for each in found if each["id"] == id)


def edges(api: ProjectsApi, shop: Shop) -> set[tuple[str, str, str]]:
    found = api("get", f"/projects/{shop.project}/atlas")[1]["edges"]
    return {(each["type"], each["from_concept_id"], each["to_concept_id"]) for each in found}


def test_a_correction_holds_everywhere_and_survives_a_new_index(
    session: OrmSession, mine: ProjectsApi, shop: Shop, alice: Person
) -> None:
    made = correct(
        mine, shop, concept_id=CART, name="Checkout", type="service", description="Where\n\npeople pay."
    )
    assert [(each["field"], each["value"], each["user_id"]) for each in made] == [
        ("name", "Checkout", alice.id),
        ("description", "Where\n\npeople pay.", alice.id),
        ("type", "service", alice.id),
    ]
    for changed in (
        {},
        {"shop/cart/basket.py": "class Basket:\n    pass\n"},
        {"shop/cart/new.py": "A = 1\n"},
    ):
        if changed:
            who = caller_of(alice.id, Account(user_id=alice.id))
            pushed(who, shop.project, shop.workspace, {**SHOP, **changed}, "Change", shop.snapshot)
            session.commit()
        index_project(transaction, shop.project)
        assert index_project(transaction, shop.project).written == 0
        found = concept(mine, shop)
        assert (found["name"], found["type"], found["description"]) == (
            "Checkout",
            "service",
            "Where\n\npeople pay.",
        )
        assert sorted(found["corrected"]) == ["description", "name", "type"]
    hits = mine("post", f"/projects/{shop.project}/atlas/search", {"query": "checkout"})[1]["results"]
    assert (hits[0]["id"], hits[0]["name"]) == (CART, "Checkout")
    diagram = mine("post", f"/projects/{shop.project}/atlas/diagrams", {"type": "dependency"})[1]["diagram"]
    assert '"Checkout"' in diagram["data"]
    assert "### Checkout" in mine.raw("get", f"/projects/{shop.project}/atlas/export").text


def test_what_is_so_already_changes_nothing_and_null_takes_back(mine: ProjectsApi, shop: Shop) -> None:
    own = concept(mine, shop)
    assert correct(mine, shop, concept_id=CART, name=own["name"], description=own["description"]) == []
    assert len(correct(mine, shop, concept_id=CART, name="Checkout")) == 1
    assert correct(mine, shop, concept_id=CART, name="  Checkout\u202e ") == []
    for value in (None, "", own["name"]):
        correct(mine, shop, concept_id=CART, name="Checkout")
        back = correct(mine, shop, concept_id=CART, name=value)
        assert [(each["value"], each["before"]) for each in back] == [(None, "Checkout")]
        assert concept(mine, shop) == own


def test_undo_brings_back_what_held_before_and_can_be_undone(mine: ProjectsApi, shop: Shop) -> None:
    path = f"/projects/{shop.project}/atlas/corrections"
    first = correct(mine, shop, concept_id=CART, name="One")[0]
    second = correct(mine, shop, concept_id=CART, name="Two")[0]
    status, answer = mine("post", f"{path}/{first['id']}/undo")
    assert (status, answer["error"]["code"]) == (409, "CORRECTION_REPLACED")
    status, answer = mine("post", f"{path}/{second['id']}/undo")
    assert (status, answer["correction"]["value"], concept(mine, shop)["name"]) == (200, "One", "One")
    assert mine("post", f"{path}/{answer['correction']['id']}/undo")[0] == 200
    assert concept(mine, shop)["name"] == "Two"
    listed = mine("get", f"{path}?concept_id={CART}")[1]["corrections"]
    assert [each["value"] for each in listed] == ["Two", "One", "Two", "One"]
    assert [each["current"] for each in listed] == [True, False, False, False]
    assert mine("get", f"{path}?concept_id=system:web")[1] == {"corrections": []}
    assert mine("post", f"{path}/none/undo")[0] == 404


def test_parts_that_are_not_related_are_not_connected(
    session: OrmSession, mine: ProjectsApi, shop: Shop
) -> None:
    app, money = "code:shop/app.py", "code:shop/money.py"
    assert ("depends_on", app, money) in edges(mine, shop)
    made = correct(mine, shop, concept_id=money, not_related_to=app)
    assert [(each["field"], each["value"]) for each in made] == [("related", "no")]
    assert correct(mine, shop, concept_id=app, not_related_to=money) == []
    index_project(transaction, shop.project)
    found = edges(mine, shop)
    assert not {("depends_on", app, money), ("used_by", money, app)} & found
    assert ("depends_on", app, "code:shop/cart/basket.py") in found
    direct = [
        each["concept_id"]
        for each in mine("get", f"/projects/{shop.project}/atlas/dependents?concept_id={money}")[1][
            "dependents"
        ]
        if each["steps"] == 1
    ]
    assert app not in direct
    assert mine("post", f"/projects/{shop.project}/atlas/corrections/{made[0]['id']}/undo")[0] == 200
    assert ("depends_on", app, money) in edges(mine, shop)


def test_a_decision_is_linked_with_what_it_names_until_somebody_denies_it(
    mine: ProjectsApi, shop: Shop, alice: Person
) -> None:
    written = mine(
        "post",
        f"/projects/{shop.project}/decisions",
        {"decision": "Keep money.py small", "rationale": "It is."},
    )
    id = f"narrative:decision:{written[1]['decision']['id']}"
    index_project(transaction, shop.project)
    file = f"/projects/{shop.project}/knowledge/concept?id=code:shop/money.py"
    decision = f"/projects/{shop.project}/knowledge/concept?id={id}"
    assert "Keep money.py small" in alice.browser.get(file).text
    assert "concept?id=code:shop/money.py" in alice.browser.get(decision).text
    links = mine("get", f"/projects/{shop.project}/atlas")[1]["decision_links"]
    assert [each["concept_id"] for each in links] == ["code:shop/money.py"]
    correct(mine, shop, concept_id="code:shop/money.py", not_related_to=id)
    assert mine("get", f"/projects/{shop.project}/atlas")[1]["decision_links"] == []
    assert "Keep money.py small" not in alice.browser.get(file).text
    assert "concept?id=code:shop/money.py" not in alice.browser.get(decision).text


def test_a_description_by_a_person_holds_over_that_of_a_model(
    mine: ProjectsApi, shop: Shop, writer: WordsAnswers, alice: Person
) -> None:
    writer.texts = [[CARET]]
    path = f"/projects/{shop.project}/atlas/description"
    for body in ({}, {"concept_id": "code:shop/money.py", "symbol": "to_cents"}):
        correct(mine, shop, **body, description="Ours.")
        query = "".join(f"&{name}={value}" for name, value in body.items())
        found = mine("get", f"{path}?{query}")[1]["description"]
        assert (found["text"], found["sentences"], found["corrected_by"]) == ("Ours.", [], alice.id)
    mine("post", f"{path}?model=stoa/demo", {"concept_id": "code:shop/money.py", "symbol": "to_cents"})
    found = mine("get", f"{path}?concept_id=code:shop/money.py&symbol=to_cents")[1]["description"]
    assert (found["text"], found["sentences"][0]["text"]) == ("Ours.", CARET["text"])
    listed = mine("get", f"/projects/{shop.project}/atlas/corrections")[1]["corrections"]
    assert [(each["concept_id"], each["symbol"]) for each in listed] == [
        ("code:shop/money.py", "to_cents"),
        (None, None),
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, 422),
        ({"concept_id": CART}, 422),
        ({"concept_id": "module:none", "name": "x"}, 404),
        ({"concept_id": CART, "name": "x" * 121}, 422),
        ({"concept_id": CART, "description": "x" * 2_001}, 422),
        ({"concept_id": CART, "type": "x" * 41}, 422),
        ({"concept_id": CART, "name": 7}, 422),
        ({"concept_id": CART, "name": "a\0b"}, 400),
        ({"name": "Everything"}, 422),
        ({"not_related_to": CART}, 422),
        ({"concept_id": "code:shop/money.py", "symbol": "to_cents", "name": "x"}, 422),
        ({"concept_id": CART, "not_related_to": CART}, 422),
        ({"concept_id": CART, "not_related_to": "code:none.py"}, 422),
        ({"concept_id": CART, "not_related_to": "code:shop/cart/basket.py"}, 422),
        ({"concept_id": CART, "not_related_to": None}, 422),
        ([], 422),
    ],
    ids=str,
)
def test_bad_corrections_say_what_is_wrong_and_change_nothing(
    mine: ProjectsApi, shop: Shop, body: Any, expected: int
) -> None:
    before = mine("get", f"/projects/{shop.project}/atlas")[1]
    status, answer = mine("post", f"/projects/{shop.project}/atlas/corrections", body)
    assert status == expected, answer
    assert answer["error"]["message"]
    assert mine("get", f"/projects/{shop.project}/atlas")[1] == before


def test_a_correction_of_another_project_is_404(
    client: FlaskClient, session: OrmSession, mine: ProjectsApi, shop: Shop, mallory: Person
) -> None:
    made = correct(mine, shop, concept_id=CART, name="Checkout")[0]
    theirs = ProjectsApi(client, mallory)
    other = theirs.project("Theirs")
    assert theirs("post", f"/projects/{other}/atlas/corrections/{made['id']}/undo")[0] == 404
    assert concept(mine, shop)["name"] == "Checkout"


def test_a_decision_is_not_corrected_here(mine: ProjectsApi, shop: Shop) -> None:
    mine("post", f"/projects/{shop.project}/decisions", {"decision": "Use money.py"})
    index_project(transaction, shop.project)
    found = mine("get", f"/projects/{shop.project}/atlas")[1]["concepts"]
    id = next(each["id"] for each in found if each["layer"] == "narrative")
    status, answer = mine(
        "post", f"/projects/{shop.project}/atlas/corrections", {"concept_id": id, "name": "x"}
    )
    assert (status, "decision" in answer["error"]["message"].lower()) == (422, True)
