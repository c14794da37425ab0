"""What the tests of accounts share: limits that start anew for each test."""

from collections.abc import Iterator

import pytest

from views.web.guards import limiter


@pytest.fixture(autouse=True)
def fresh_limits(request: pytest.FixtureRequest) -> Iterator[None]:
    """Forget whoever was counted."""
    yield
    if "app" in request.fixturenames:
        app = request.getfixturevalue("app")
        with app.app_context():
            limiter.reset()
