"""The blueprint of the operators' JSON routes, and what they share."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Blueprint
from sqlalchemy.exc import SQLAlchemyError

from models.admin.account_review import view_is_due
from models.core.db import db, now
from models.core.errors import DomainError
from views.admin.pages.admin_blueprint import operating_user
from views.web.error_bodies import door
from views.web.guards import audit
from views.web.operation import Answers

log = logging.getLogger("stoa.admin")
bp = Blueprint("admin_api", __name__)

DOOR = door()
NOT_ADMIN: Answers = {403: "You are not an operator of this server, or, to change something, an auditor"}


@contextmanager
def failing_with(message: str) -> Iterator[None]:
    """Raises DomainError (500) with the contract's message where the database fails."""
    try:
        yield
    except SQLAlchemyError as error:
        log.error("%s: %s", message, error)
        raise DomainError(message, status=500) from error


def log_view(action: str, subject: str) -> None:
    """Write to the audit log that the operator looked, at most once an hour, and commit."""
    viewer = operating_user()
    if view_is_due(subject, viewer.id, now(), action):
        audit(action, subject, user=viewer)
        db.session.commit()
