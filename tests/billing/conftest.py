from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy.engine import Engine

from models import billing


@pytest.fixture
def gate(app: Flask, postgres_url: str) -> Iterator[Engine]:
    """The gateway's engine, as a worker has it."""
    engine = billing.gateway_engine(postgres_url, 8)
    yield engine
    engine.dispose()
