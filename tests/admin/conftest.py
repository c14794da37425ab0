"""The operator, and the fixtures of the billing tests."""

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from tests import factories
from tests.billing.conftest import desk
from tests.factories import Person

__all__ = ["desk"]


@pytest.fixture
def root(app: Flask, session: OrmSession) -> Person:
    """An operator: the address is in STOA_ADMINS."""
    return factories.person(app, "root")


@pytest.fixture
def auditor(app: Flask, session: OrmSession) -> Person:
    """An auditor: the address is in STOA_AUDITORS."""
    return factories.person(app, "auditor")
