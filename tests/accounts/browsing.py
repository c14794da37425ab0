"""Small helpers that read pages as a person without JavaScript would."""

import re

from werkzeug.test import TestResponse


def token_of(page: TestResponse) -> str:
    """The form token of a page."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert found, page.text[:500]
    return found[1]
