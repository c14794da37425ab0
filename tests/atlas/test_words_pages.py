"""Descriptions and corrections in the tab Knowledge: what the panel says in each state, who pays once, and what people correct."""

import html
import time
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.atlas.atlas_words import words_of
from models.ledger import Account
from tests import factories
from tests.atlas.atlas_rows import SHOP, Shop, indexed, shop_rows
from tests.atlas.words_answers import CARET, WordsAnswers
from tests.factories import Person
from tests.projects.project_rows import caller_of, pushed

MONEY = "code:shop/money.py"
BAD = {"text": "Made up.", "citations": [{"path": "none.py", "line": 1}]}


def send(who: Person, path: str, headers: dict[str, str] | None = None, **data: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data}, headers=headers)


def written(session: OrmSession, shop: Shop, key: str = MONEY) -> None:
    """Wait until the model has answered."""
    for _ in range(400):
        session.rollback()
        found = words_of(shop.project, key)
        if found is not None and not found.is_writing:
            return
        time.sleep(0.05)
    raise AssertionError("nobody wrote")


def page(who: Person, shop: Shop, path: str = f"concept?id={MONEY}") -> str:
    answer = who.browser.get(f"/projects/{shop.project}/knowledge/{path}".rstrip("/"))
    assert answer.status_code == 200
    return html.unescape(answer.text)


def test_the_panel_says_what_words_cost_before_and_after(
    session: OrmSession, alice: Person, shop: Shop
) -> None:
    factories.grant(alice.user, 1000)
    session.commit()
    before = page(alice, shop)
    for said in ("No words yet", "About 1 credit with", "Correct it by hand"):
        assert said in before
    answer = send(alice, f"/projects/{shop.project}/knowledge/words", concept=MONEY, model="stoa/demo")
    assert (answer.status_code, answer.headers["Location"]) == (
        303,
        f"/projects/{shop.project}/knowledge/words?concept={MONEY}",
    )
    written(session, shop)
    after = page(alice, shop)
    for said in (
        "shop/money.py defines CENTS, to_cents.",
        f"/projects/{shop.project}/files?path=shop/money.py#L5",
        "Written by stoa/demo",
        "It cost 0.",
        "Describe again",
        "Up to date",
    ):
        assert said in after


def test_who_does_not_wait_sees_that_it_is_being_written_and_pays_once(
    session: OrmSession, alice: Person, shop: Shop, writer: WordsAnswers
) -> None:
    path = f"/projects/{shop.project}/knowledge/words"
    writer.texts = [[CARET, BAD]]
    seen: list[str] = []

    def meanwhile() -> None:
        while not seen:
            time.sleep(0.02)

    writer.meanwhile = meanwhile
    first = send(alice, path, concept=MONEY, model="stoa/demo")
    second = send(alice, path, {"HX-Request": "true"}, concept=MONEY, model="stoa/demo")
    assert (first.status_code, second.status_code) == (303, 200)
    assert second.text.lstrip().startswith('<section class="card atlas__words" id="words"')
    for said in (page(alice, shop), second.text):
        assert "Being written" in said
        assert 'hx-trigger="every 2s"' in said
        assert "Describe" not in said.partition('id="words"')[2].partition("</section>")[0].replace(
            "Description", ""
        )
    seen.append("both")
    written(session, shop)
    assert len(writer.calls) == 1
    assert "1 sentence was cut, because it cites nothing that exists." in page(alice, shop)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "The provider is down."),
        (402, "Not enough credits."),
        ("No.", "The model did not answer in the format"),
    ],
)
def test_a_failure_is_a_sentence(
    session: OrmSession, alice: Person, shop: Shop, writer: WordsAnswers, text: Any, said: str
) -> None:
    writer.texts = [text]
    send(alice, f"/projects/{shop.project}/knowledge/words", concept=MONEY, model="stoa/demo")
    written(session, shop)
    found = page(alice, shop)
    assert "The model wrote nothing" in found
    assert said in found


@pytest.mark.parametrize("model", ["", "nobody/nothing", "x" * 300])
def test_a_wrong_model_is_said_at_its_field(
    alice: Person, shop: Shop, writer: WordsAnswers, model: str
) -> None:
    answer = send(alice, f"/projects/{shop.project}/knowledge/words", concept=MONEY, model=model)
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.text
    assert writer.calls == []


def test_lines_of_a_file_that_changed_are_those_of_the_snapshot(
    session: OrmSession, alice: Person, shop: Shop, writer: WordsAnswers
) -> None:
    writer.texts = [[CARET]]
    send(alice, f"/projects/{shop.project}/knowledge/words", concept=MONEY, model="stoa/demo")
    written(session, shop)
    pushed(
        caller_of(alice.id, Account(user_id=alice.id)),
        shop.project,
        shop.workspace,
        {**SHOP, "shop/money.py": "#\n" * 9},
        "Change",
        shop.snapshot,
    )
    session.commit()
    found = page(alice, shop)
    assert "1 file changed since" in found
    assert f"/projects/{shop.project}/files?path=shop/money.py&at={shop.snapshot}#L5" in found
    # what the map says is also of its snapshot, until it is made again
    assert f"files?path=shop/app.py&at={shop.snapshot}#L3" in found


def test_the_map_and_symbols_have_descriptions_of_their_own(
    session: OrmSession, alice: Person, shop: Shop, writer: WordsAnswers
) -> None:
    writer.texts = [[CARET]]
    assert "No words yet" in page(alice, shop, "")
    assert "knowledge/words?concept=code:shop/money.py&symbol=to_cents" in page(alice, shop)
    symbol = f"words?concept={MONEY}&symbol=to_cents"
    assert "can describe to_cents" in page(alice, shop, symbol)
    send(
        alice,
        f"/projects/{shop.project}/knowledge/words",
        concept=MONEY,
        symbol="to_cents",
        model="stoa/demo",
    )
    written(session, shop, "symbol:shop/money.py#to_cents")
    assert CARET["text"] in page(alice, shop, symbol)
    assert "No words yet" in page(alice, shop)


def test_people_correct_a_part_and_undo_it(alice: Person, shop: Shop) -> None:
    base = f"/projects/{shop.project}/knowledge"
    form = page(alice, shop, f"correct?concept={MONEY}")
    assert "The map says: money.py" in form
    assert "Nothing was corrected" in form
    answer = send(alice, f"{base}/correct", concept=MONEY, name="Amounts", type="", description="Cents.\n<b>")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{base}/correct?concept={MONEY}")
    found = alice.browser.get(f"{base}/concept?id={MONEY}").text
    assert "Amounts of Shop" in found
    assert "&lt;b&gt;" in found
    assert "It holds over words of a model." in found
    listed = page(alice, shop, f"correct?concept={MONEY}")
    assert 'value="Amounts"' in listed
    undo = listed.split('/undo"')[0].rpartition("/")[2]
    assert send(alice, f"{base}/corrections/{undo}/undo", concept=MONEY).status_code == 303
    refused = send(alice, f"{base}/corrections/{undo}/undo", concept=MONEY)
    assert refused.status_code == 303
    assert "corrected again since" in page(alice, shop, f"correct?concept={MONEY}")
    wrong = send(alice, f"{base}/correct", concept=MONEY, name="x" * 200, type="", description="Kept.")
    assert wrong.status_code == 422
    assert "Write at most 120 characters." in wrong.text
    assert "x" * 200 in wrong.text
    assert (
        send(alice, f"{base}/unrelated", concept=MONEY, other="code:tests/test_money.py").status_code == 303
    )
    assert "concept?id=code:tests/test_money.py" not in page(alice, shop)
    assert send(alice, f"{base}/unrelated", concept=MONEY, other="code:none").status_code == 303
    assert "nothing that connects" in page(alice, shop, f"correct?concept={MONEY}")


POSTS = [
    ("words", {"concept": MONEY, "model": "stoa/demo"}),
    ("correct", {"concept": MONEY, "name": "x"}),
    ("unrelated", {"concept": MONEY, "other": "code:shop/app.py"}),
    ("corrections/none/undo", {"concept": MONEY}),
]


def test_strangers_read_and_write_nothing(
    mallory: Person, anonymous: Person, shop: Shop, writer: WordsAnswers
) -> None:
    base = f"/projects/{shop.project}/knowledge"
    for path in ("words", f"words?concept={MONEY}", f"correct?concept={MONEY}"):
        assert mallory.browser.get(f"{base}/{path}").status_code == 404
        assert anonymous.browser.get(f"{base}/{path}").status_code in (302, 303)
    for path, data in POSTS:
        assert send(mallory, f"{base}/{path}", **data).status_code == 404
        assert send(anonymous, f"{base}/{path}", **data).status_code in (302, 303, 401)
    assert writer.calls == []


def test_a_call_in_an_organisation_is_paid_by_it(
    session: OrmSession, alice: Person, writer: WordsAnswers
) -> None:
    org = factories.org(alice.user)
    shop = shop_rows(alice.id, Account(org_id=org.id))
    indexed(session, shop.project)
    writer.texts = [[CARET]]
    answer = send(
        alice, f"/orgs/{org.slug}/projects/{shop.project}/knowledge/words", concept=MONEY, model="stoa/demo"
    )
    assert answer.status_code == 303
    written(session, shop)
    assert writer.calls[0]["org_id"] == org.id
    session.execute(text("SELECT 1"))
