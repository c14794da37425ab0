"""Post forms of organisations' pages with a CSRF token."""

import re
from typing import Any

from werkzeug.test import TestResponse

from tests.factories import Person

FRAGMENT = {"HX-Request": "true"}


def send(person: Person, path: str, *, fragment: bool = False, **form: Any) -> TestResponse:
    """Post the form as this person; `fragment` as htmx does."""
    page = person.browser.get("/orgs/new" if person.user else "/login").text
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    data = {"csrf_token": found[1] if found else "", **form}
    return person.browser.post(path, data=data, headers=FRAGMENT if fragment else {})
