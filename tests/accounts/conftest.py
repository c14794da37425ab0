"""Fixtures of the accounts tests: rate limits are reset after each test."""

from collections.abc import Iterator

import pytest

from views.web.guards import limiter


@pytest.fixture(autouse=True)
def fresh_limits(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reset the rate limits."""
    yield
    if "app" in request.fixturenames:
        app = request.getfixturevalue("app")
        with app.app_context():
            limiter.reset()
