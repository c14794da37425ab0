"""The short form of the proof of counting, on the tests' database."""

import pytest
from flask import Flask
from sqlalchemy.engine import Engine

from tests.proof import upstream
from tests.proof.counting import counted
from tests.proof.stage import Stage


@pytest.mark.usefixtures("session")
def test_publishing_counting_and_settling_wait_in_no_circle(app: Flask, engine: Engine) -> None:
    with upstream.running() as provider:
        counted(Stage("", engine, provider), seconds=3, settlers=2)
