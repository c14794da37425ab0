"""Times in the viewer's time zone and numbers in their language, on pages; UTC and English in mails, JSON and files."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask, g
from flask_login import AnonymousUserMixin

from models.accounts import User
from models.core.time_zones import time_zones, zone_named
from models.orgs import Org
from views.web import format
from views.web.mail_templates import render_mail
from views.web.viewer_locale import number_languages

WINTER, SUMMER = datetime(2026, 1, 5, 23, 50, 7, tzinfo=UTC), datetime(2026, 7, 5, 23, 50, 7, tzinfo=UTC)
EXACT = Decimal("123456789012345678901234567890.123456789")


def formatted(app: Flask, call: Callable[[], str], user: User | None = None, cookie: str = "") -> str:
    headers = {"Cookie": f"stoa-zone={cookie}"} if cookie else {}
    with app.test_request_context("/", headers=headers):
        g._login_user = user or AnonymousUserMixin()
        return call()


@pytest.mark.parametrize(
    ("cookie", "winter", "summer"),
    [
        ("", "5 Jan 2026, 23:50:07 UTC", "5 Jul 2026, 23:50:07 UTC"),
        ("Europe/Berlin", "6 Jan 2026, 00:50:07 CET", "6 Jul 2026, 01:50:07 CEST"),
        ("Asia/Kathmandu", "6 Jan 2026, 05:35:07 UTC+05:45", "6 Jul 2026, 05:35:07 UTC+05:45"),
        ("America/Sao_Paulo", "5 Jan 2026, 20:50:07 UTC-03", "5 Jul 2026, 20:50:07 UTC-03"),
        ("../../etc/passwd", "5 Jan 2026, 23:50:07 UTC", "5 Jul 2026, 23:50:07 UTC"),
        ("X" * 5000, "5 Jan 2026, 23:50:07 UTC", "5 Jul 2026, 23:50:07 UTC"),
    ],
)
def test_times_are_those_of_the_browser(app: Flask, cookie: str, winter: str, summer: str) -> None:
    assert formatted(app, lambda: format.moment(WINTER), cookie=cookie) == winter
    assert formatted(app, lambda: format.moment(SUMMER), cookie=cookie) == summer
    assert formatted(app, lambda: format.iso(WINTER) or "", cookie=cookie) == "2026-01-05T23:50:07.000Z"


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("en", ("−1,234,567", "$1,234.50", "38.4k", "12.5%", "4,770.125")),
        ("de", ("−1.234.567", "$1.234,50", "38,4k", "12,5%", "4.770,125")),
        ("de_CH", ("−1'234'567", "$1'234.50", "38.4k", "12.5%", "4'770.125")),
        ("fr", ("−1\u202f234\u202f567", "$1\u202f234,50", "38,4k", "12,5%", "4\u202f770,125")),
        ("en_IN", ("−12,34,567", "$1,234.50", "38.4k", "12.5%", "4,770.125")),
    ],
)
def test_numbers_are_in_the_language_of_the_user(app: Flask, language: str, texts: tuple[str, ...]) -> None:
    user = User(id="u", email="a@example.org", number_language=language, time_zone="Asia/Tokyo")
    calls: list[Callable[[], Any]] = [
        lambda: format.credits(-1_234_567),
        lambda: format.usd(Decimal("1234.5")),
        lambda: format.tokens(38_400),
        lambda: format.percent(0.125),
        lambda: format.exact_credits(Decimal("4770.125")),
    ]
    assert tuple(formatted(app, call, user) for call in calls) == texts
    digits = formatted(app, lambda: format.number(EXACT), user)
    assert [each for each in digits if each.isdigit()] == [each for each in str(EXACT) if each.isdigit()]
    assert formatted(app, lambda: format.moment(WINTER), user, "Europe/Berlin") == "6 Jan 2026, 08:50:07 JST"
    values = {"until": WINTER, "user": user, "org": Org(name="Acme", slug="acme"), "url": "", "credits": 1000}
    assert "5 Jan 2026, 23:50:07 UTC" in formatted(
        app, lambda: render_mail("emails/sso_bypassed.txt", **values), user
    )


def test_every_offered_zone_and_language_works(app: Flask) -> None:
    assert all(zone_named(name) for name in time_zones())
    assert number_languages()[0][0] == "en"
    assert all(
        formatted(app, lambda: format.number(1234), User(number_language=code))
        for code, _ in number_languages()
    )
