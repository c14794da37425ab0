"""The kit: the application with a test-only page of every component, and no database behind it."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web.kit import kit_app


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    return kit_app(tmp_path_factory.mktemp("kit"))


@pytest.fixture
def browser(kit: Flask) -> FlaskClient:
    return kit.test_client()
