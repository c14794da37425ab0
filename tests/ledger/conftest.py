from collections.abc import Iterator

import pytest
from flask import Flask

from models.core.pool import Pool


@pytest.fixture
def pool(app: Flask, postgres_url: str) -> Iterator[Pool]:
    """The connection pool of a gateway worker."""
    pool = Pool(postgres_url, 8)
    yield pool
    pool.close()
