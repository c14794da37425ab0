"""Helpers that use pages like a browser without JavaScript."""

import re

from werkzeug.test import TestResponse


def token_of(page: TestResponse) -> str:
    """Return the CSRF token of a page."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert found, page.text[:500]
    return found[1]
