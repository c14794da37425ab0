"""Short form of the counting proof, on the test database."""

import pytest
from flask import Flask
from sqlalchemy.engine import Engine

from tests.proof import upstream
from tests.proof.counting import counting_proof
from tests.proof.stage import Stage


@pytest.mark.usefixtures("session")
def test_publishing_counting_and_settling_never_deadlock(app: Flask, engine: Engine) -> None:
    with upstream.running() as provider:
        counting_proof(Stage("", engine, provider), seconds=2, settlers=2)
