from collections.abc import Iterator

import pytest
from flask import Flask

from models.core.pool import Pool


@pytest.fixture
def gate(app: Flask, postgres_url: str) -> Iterator[Pool]:
    """The gateway's engine, as a worker has it."""
    made = Pool(postgres_url, 8)
    yield made
    made.close()
