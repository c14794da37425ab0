"""The bar shows the viewer and the available credits, with the same balance as the usage page."""

from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models import demo
from tests import factories
from tests.factories import Person


def test_bar_shows_available_credits(session: OrmSession, alice: Person) -> None:
    assert alice.user
    factories.grant(alice.user, 1500)
    factories.hold(alice.user, 40)
    session.commit()
    page = alice.browser.get("/").text
    assert "1,460<small" in page
    assert "Open the console" in page
    assert "flask demo remove" not in page


def test_signed_out_page_shows_no_credits(anonymous: Person) -> None:
    page = anonymous.browser.get("/").text
    assert "credit-chip" not in page
    assert "empty until your first call" in page


def test_demo_banner_is_on_every_page(app: Flask, session: OrmSession) -> None:
    made = factories.user("demo", id=demo.USER_ID)
    browser = app.test_client()
    browser.set_cookie("next-auth.session-token", factories.token(made, type="web"))
    session.commit()
    assert "flask demo remove" in browser.get("/").text


def test_sign_out_is_a_form_with_a_csrf_token(alice: Person) -> None:
    page = alice.browser.get("/").text
    form = page[page.index('action="/api/auth/signout"') :]
    assert 'name="csrf_token"' in form[:200]
