"""The kit: the application with test pages for all components and without a database."""

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
