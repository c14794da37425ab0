"""Publisher pages without JavaScript, and `flask store verify`."""

import html
import io
import re
from typing import Any

import pytest
from flask import Flask
from markupsafe import escape
from PIL import Image
from sqlalchemy import event, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.core.audit_log import AuditLog
from models.core.db import db
from models.orgs import Org, OrgMember
from models.store import Publisher, publishers
from models.store.catalogue import pictures
from tests import factories
from tests.factories import Person


def token_of(person: Person, path: str = "/publishers/new?step=3&publisher=tokens&name=Tokens") -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', person.browser.get(path).text)
    assert found
    return found[1]


def send(person: Person, path: str, **form: Any) -> TestResponse:
    return person.browser.post(path, data={"csrf_token": token_of(person), **form})


def make(person: Person, **form: Any) -> TestResponse:
    return send(person, "/publishers/new", **{"publisher": "harbor", "name": "Harbor"} | form)


def png(colour: str = "red") -> tuple[io.BytesIO, str, str]:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    buffer.seek(0)
    return buffer, "me.png", "image/png"


def errors_in(page: TestResponse) -> set[str]:
    return set(re.findall(r'<a href="#([a-z_]+)">', page.text))


@pytest.fixture
def harbor(session: OrmSession, alice: Person) -> Publisher:
    assert alice.user
    return factories.publisher(alice.user, "harbor", name="Harbor Works")


def audited(session: OrmSession) -> list[str]:
    return list(session.scalars(select(AuditLog.action).order_by(AuditLog.id)))


# -- access --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/publishers", "/publishers/new", "/publishers/harbor/edit"])
def test_the_signed_out_sign_in_first(anonymous: Person, path: str) -> None:
    answer = anonymous.browser.get(path)
    assert (answer.status_code, answer.location[:6]) == (302, "/login")


def test_who_may_edit_and_transfer(
    alice: Person, bob: Person, mallory: Person, acme: Org, session: OrmSession
) -> None:
    factories.publisher(acme, "acme-tools")
    for path in ("/publishers/acme-tools/edit", "/publishers/acme-tools/owner"):
        for person, status in ((alice, 200), (bob, 403), (mallory, 404)):
            assert person.browser.get(path).status_code == status, path
        for person, status in ((bob, 403), (mallory, 404)):
            assert send(person, path, name="Stolen").status_code == status, path
    stored = session.get_one(Publisher, "acme-tools", populate_existing=True)
    assert (stored.name, stored.org_id) == ("Acme-Tools", acme.id)
    for path in ("/publishers/nobody/edit", "/publishers/n%00body/edit", "/publishers/Nobody/edit"):
        assert alice.browser.get(path).status_code == 404


def test_a_form_without_its_token_changes_nothing(alice: Person, harbor: Publisher) -> None:
    assert alice.browser.post("/publishers/harbor/edit", data={"name": "Gone"}).status_code == 400
    assert alice.browser.post("/publishers/new", data={"publisher": "a-b", "name": "AB"}).status_code == 400


# -- create --------------------------------------------------------------------------------------------------


def test_the_three_steps(alice: Person, acme: Org, session: OrmSession) -> None:
    first = alice.browser.get(f"/publishers/new?org={acme.id}").text
    assert re.search(rf'value="{acme.id}" checked', first), "?org= chooses it"
    second = alice.browser.get(f"/publishers/new?step=2&org={acme.id}").text
    assert f'type="hidden" name="org" value="{acme.id}"' in second
    assert 'name="step" value="3"' in second
    third = alice.browser.get(
        f"/publishers/new?step=3&org={acme.id}&publisher=lighthouse&name=Lighthouse"
    ).text
    assert 'method="post"' in third
    answer = make(
        alice, org=acme.id, publisher="lighthouse", name=" Light  house ", bio="We shine.", avatar=png()
    )
    assert (answer.status_code, answer.location) == (303, "/publishers/lighthouse")
    made = session.get_one(Publisher, "lighthouse")
    assert (made.name, made.org_id, made.user_id, made.bio) == ("Light house", acme.id, None, "We shine.")
    assert made.avatar_url
    assert alice.browser.get(made.avatar_url).status_code == 200
    assert audited(session) == ["publisher.created"]


def test_a_step_is_shown_again_until_it_is_right(alice: Person, acme: Org, harbor: Publisher) -> None:
    for query, wrong in (
        ("step=2&org=nowhere", {"org"}),
        ("step=3&publisher=&name=", {"publisher", "name"}),
        ("step=3&publisher=harbor&name=Harbor", {"publisher"}),
        ("step=3&publisher=new&name=New", {"publisher"}),
        ("step=3&publisher=fine-id&name=H", {"name"}),
        ("step=3&publisher=fine-id&name=Fine&org=nowhere", {"org"}),
    ):
        page = alice.browser.get(f"/publishers/new?{query}")
        assert (page.status_code, errors_in(page)) == (422, wrong), query
    assert alice.browser.get("/publishers/new?step=9").status_code == 200


def test_members_cannot_choose_the_organisation(bob: Person, mallory: Person, acme: Org) -> None:
    for person in (bob, mallory):
        assert acme.id not in person.browser.get(f"/publishers/new?org={acme.id}").text
        answer = make(person, org=acme.id)
        assert (answer.status_code, errors_in(answer)) == (422, {"org"})


def test_a_refused_form_keeps_what_was_entered_and_the_picture(alice: Person, session: OrmSession) -> None:
    answer = make(alice, publisher="Har bor", email="nobody", bio="<b>Bold</b>", avatar=png())
    assert (answer.status_code, errors_in(answer)) == (422, {"publisher", "email"})
    assert "&lt;b&gt;Bold&lt;/b&gt;" in answer.text
    stored = re.search(r'name="avatar_url" value="([^"]+)"', answer.text)
    assert stored
    assert pictures.ADDRESS.fullmatch(stored[1])
    assert make(alice, bio="Plain", avatar_url=stored[1]).status_code == 303
    assert session.get_one(Publisher, "harbor").avatar_url == stored[1]


def test_an_invalid_picture_is_reported_at_its_field(alice: Person, session: OrmSession) -> None:
    fake = (io.BytesIO(b"<svg onload=alert(1)>"), "me.png", "image/png")
    answer = make(alice, avatar=fake)
    assert (answer.status_code, errors_in(answer)) == (422, {"avatar"})
    assert pictures.UNREADABLE in answer.text
    assert session.get(Publisher, "harbor") is None


def test_an_avatar_url_in_the_form_is_ignored(alice: Person, session: OrmSession) -> None:
    assert make(alice, avatar_url="https://evil.example/pixel.gif").status_code == 303
    assert session.get_one(Publisher, "harbor").avatar_url is None


def test_the_id_was_taken_meanwhile(
    alice: Person, harbor: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishers, "id_problem", lambda *_: None)
    answer = make(alice, bio="Kept")
    assert (answer.status_code, errors_in(answer)) == (422, {"publisher"})
    assert "Kept" in answer.text


def test_the_id_is_checked_while_it_is_typed(alice: Person, harbor: Publisher) -> None:
    def ask(requested: str) -> str:
        query = {"publisher": requested}
        return alice.browser.get(
            "/publishers/new", query_string=query, headers={"HX-Request": "true"}
        ).text.strip()

    assert "@lighthouse is available" in ask("lighthouse")
    assert publishers.TAKEN in ask("harbor")
    assert "must contain only" in ask("<script>")
    assert "<script>" not in ask("<script>")
    assert ask("") == ""


# -- list ----------------------------------------------------------------------------------------------------


def test_lists_managed_publishers_and_an_empty_state(
    alice: Person, bob: Person, acme: Org, harbor: Publisher, session: OrmSession
) -> None:
    factories.publisher(acme, "acme-tools")
    page = alice.browser.get("/publishers").text
    assert "@harbor" in page
    assert "@acme-tools" in page
    empty = bob.browser.get("/publishers").text
    assert "No publishers yet" in empty
    assert 'href="/publishers/new"' in empty


def test_the_list_takes_constant_statements(
    alice: Person, harbor: Publisher, session: OrmSession, app: Flask
) -> None:
    def statements() -> int:
        seen: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            seen.append(statement)

        with app.app_context():
            event.listen(db.engine, "before_cursor_execute", note)
            alice.browser.get("/publishers")
            event.remove(db.engine, "before_cursor_execute", note)
        return len(seen)

    statements()
    few = statements()
    assert alice.user
    for number in range(20):
        factories.publisher(alice.user, f"harbor-{number}")
    assert statements() == few


# -- edit ----------------------------------------------------------------------------------------------------


def test_an_edit_is_saved_and_audited(alice: Person, harbor: Publisher, session: OrmSession) -> None:
    form = {"name": "Harbor & Sons", "email": "dock@harbor.example", "bio": "One\r\ntwo", "avatar": png()}
    answer = send(alice, "/publishers/harbor/edit", **form)
    assert (answer.status_code, answer.location) == (303, "/publishers/harbor/edit")
    saved = session.get_one(Publisher, "harbor", populate_existing=True)
    assert (saved.name, saved.email, saved.bio) == ("Harbor & Sons", "dock@harbor.example", "One\ntwo")
    first = saved.avatar_url
    send(alice, "/publishers/harbor/edit", name="Harbor & Sons", avatar=png("blue"))
    session.expire_all()
    assert saved.avatar_url != first
    assert saved.email is None, "an emptied field is emptied"
    send(alice, "/publishers/harbor/edit", name="Harbor & Sons", no_avatar="1")
    session.expire_all()
    assert saved.avatar_url is None
    send(alice, "/publishers/harbor/edit", name="Harbor & Sons")
    assert audited(session) == ["publisher.edited"] * 3, "what changes nothing is not written down"


def test_an_edit_that_cannot_be_saved_is_shown_again(
    alice: Person, harbor: Publisher, session: OrmSession
) -> None:
    fake = (io.BytesIO(b"GIF89a"), "me.gif", "image/gif")
    answer = send(alice, "/publishers/harbor/edit", name="H", email="x", bio="b" * 1001, avatar=fake)
    assert answer.status_code == 422
    assert {"name", "avatar"} <= errors_in(answer)
    assert errors_in(send(alice, "/publishers/harbor/edit", name="Harbor", email="x")) == {"email"}
    assert session.get_one(Publisher, "harbor", populate_existing=True).name == "Harbor Works"


def test_an_unusable_avatar_does_not_block_an_edit(
    alice: Person, harbor: Publisher, session: OrmSession
) -> None:
    harbor.avatar_url = "http://old.example/a.png"
    session.commit()
    assert send(alice, "/publishers/harbor/edit", name="Harbor").status_code == 303
    assert session.get_one(Publisher, "harbor", populate_existing=True).avatar_url is None


def test_an_unvalidated_email_does_not_block_an_edit(
    alice: Person, harbor: Publisher, session: OrmSession
) -> None:
    harbor.email = "not an address"
    session.commit()
    assert (
        send(alice, "/publishers/harbor/edit", name="Harbor", email="not an address", bio="New").status_code
        == 303
    )
    assert session.get_one(Publisher, "harbor", populate_existing=True).bio == "New"


def test_transfer_to_an_organisation_and_back(
    alice: Person, bob: Person, acme: Org, harbor: Publisher, session: OrmSession
) -> None:
    answer = send(alice, "/publishers/harbor/owner", org=acme.id)
    assert (answer.status_code, answer.location) == (303, "/publishers/harbor/edit")
    session.expire_all()
    assert (harbor.org_id, harbor.user_id) == (acme.id, None)
    session.get_one(OrgMember, (acme.id, bob.id)).role = "admin"
    session.commit()
    assert "It will belong to alice, who created it." in bob.browser.get("/publishers/harbor/owner").text
    answer = send(bob, "/publishers/harbor/owner")
    assert (answer.status_code, answer.location) == (303, "/publishers"), "it is no longer bob's to edit"
    session.expire_all()
    assert (harbor.org_id, harbor.user_id) == (None, alice.id)
    assert audited(session) == ["publisher.linked", "publisher.unlinked"]
    assert send(alice, "/publishers/harbor/owner", org="nowhere\0").status_code == 403
    assert alice.browser.get("/publishers/harbor/owner").status_code == 409


# -- public page ---------------------------------------------------------------------------------------------


def test_a_preview_image_replaces_a_missing_picture(
    anonymous: Person, harbor: Publisher, session: OrmSession
) -> None:
    def shown() -> str:
        page = anonymous.browser.get("/publishers/harbor").text
        return html.unescape(
            re.findall(r'property="og:image" content="http://localhost:8000([^"]+)"', page)[0]
        )

    first = shown()
    answer = anonymous.browser.get(first)
    assert Image.open(io.BytesIO(answer.data)).size == (1200, 630)
    harbor.bio = "We dock."
    session.commit()
    assert shown() != first, "a new picture has a new address"
    assert anonymous.browser.get("/publishers/nobody/card.png").status_code == 404


def test_the_public_page_says_who_it_is(anonymous: Person, harbor: Publisher, session: OrmSession) -> None:
    harbor.bio = "We read <changes>.\n\nAlways."
    harbor.email = "a&b@harbor.example"
    harbor.avatar_url = f"/uploads/avatars/{'1' * 64}.webp"
    session.commit()
    factories.agent(harbor, "reviewer", runs=1234, weekly_runs=5)
    factories.agent_version(harbor, "reviewer", "1.2.0")
    factories.agent_version(harbor, "reviewer", "2.0.0", yanked_reason="Broken")
    page = anonymous.browser.get("/publishers/harbor")
    assert page.status_code == 200
    text = page.text
    assert "<title>Harbor Works (@harbor) · Stoa</title>" in text
    assert '<link rel="canonical" href="http://localhost:8000/publishers/harbor">' in text
    assert 'property="og:title" content="Harbor Works (@harbor)"' in text
    assert f'property="og:image" content="http://localhost:8000/uploads/avatars/{"1" * 64}.webp"' in text
    assert "We read &lt;changes&gt;." in text
    assert "mailto:a%26b%40harbor.example" in text
    assert 'type="application/atom+xml" title="New versions by Harbor Works"' in text
    assert text.count('href="/publishers/harbor/feed.atom"') == 2, "for programs and for people"
    assert "/publishers/harbor/agents/reviewer" in text
    assert ">1.2.0<" in text
    assert ">2.0.0<" not in text, "a yanked version is not the latest"
    assert "1,234" in text
    assert "Verified" not in text
    assert "/edit" not in text


@pytest.mark.parametrize("message", ["ask at the harbour", 'a"b@harbor.example', "a@b?bcc=c@d.example"])
def test_an_invalid_email_is_not_a_link(
    anonymous: Person, harbor: Publisher, session: OrmSession, message: str
) -> None:
    harbor.email = message
    session.commit()
    text = anonymous.browser.get("/publishers/harbor").text
    assert "mailto:" not in text
    assert str(escape(message)) in text


def test_only_who_may_change_it_sees_the_way_to(alice: Person, mallory: Person, harbor: Publisher) -> None:
    assert "/publishers/harbor/edit" in alice.browser.get("/publishers/harbor").text
    assert "/publishers/harbor/edit" not in mallory.browser.get("/publishers/harbor").text


@pytest.mark.parametrize("path", ["nobody", "Harbor", "har%00bor", "..%2f", "a" * 3000, "-harbor"])
def test_who_does_not_exist_is_not_found(anonymous: Person, harbor: Publisher, path: str) -> None:
    assert anonymous.browser.get(f"/publishers/{path}").status_code == 404


def test_many_agents_come_in_pages(anonymous: Person, harbor: Publisher, session: OrmSession) -> None:
    for number in range(publishers.PAGE_SIZE + 1):
        factories.agent(harbor, f"agent-{number:03}")
    page = anonymous.browser.get("/publishers/harbor").text
    assert page.count("/publishers/harbor/agents/") == publishers.PAGE_SIZE
    more = re.search(r'href="(/publishers/harbor\?after=[^"]+)"', page)
    assert more
    rest = anonymous.browser.get(more[1], headers={"HX-Request": "true"})
    assert "<html" not in rest.text
    assert rest.text.count("/publishers/harbor/agents/") == 1
    assert "<html" in anonymous.browser.get(more[1]).text
    beyond = anonymous.browser.get("/publishers/harbor?after=zzz%00")
    assert "No more agents" in beyond.text


# -- verified mark -------------------------------------------------------------------------------------------


def test_the_operator_sets_and_clears_the_verified_mark(
    app: Flask, anonymous: Person, harbor: Publisher, session: OrmSession, engine: Engine
) -> None:
    runner = app.test_cli_runner()

    def verify(*args: str) -> tuple[int, str]:
        done = runner.invoke(args=["store", "verify", *args])
        return done.exit_code, done.output.strip()

    assert verify("harbor") == (0, "@harbor is verified now.")
    assert verify("@harbor") == (0, "@harbor is verified already.")
    assert "Verified" in anonymous.browser.get("/publishers/harbor").text
    assert verify("harbor", "--remove") == (0, "@harbor is not verified now.")
    assert verify("nobody") == (1, "Error: There is no publisher nobody.")
    assert audited(session) == ["publisher.verified", "publisher.unverified"]
