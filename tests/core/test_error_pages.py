"""Error pages and toasts: a headline and the next step, each once."""

import re

import pytest
from flask.testing import FlaskClient
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from tests import factories
from tests.factories import Person

NOT_FOUND = "Check the address. It may belong to another account."


@pytest.mark.parametrize(
    ("path", "status", "headline", "text"),
    [
        ("/nope", 404, "Not found", NOT_FOUND),
        ("/runs/nope", 404, "Not found", f"There is no such run here. {NOT_FOUND}"),
        ("/publishers/nope", 404, "Not found", f"There is no such publisher here. {NOT_FOUND}"),
        ("/publishers/other/edit", 404, "Not found", f"Publisher not found. {NOT_FOUND}"),
        ("/publishers/nope/agents/a", 404, "Not found", f"There is no such agent here. {NOT_FOUND}"),
        (
            "/profile/sessions/nope/revocation",
            404,
            "Not found",
            f"This session or key does not exist. {NOT_FOUND}",
        ),
        (
            "/publishers/acme/owner",
            409,
            "Conflict",
            "This publisher does not belong to an organisation.",
        ),
        ("/calls/export?format=xml", 422, "Not accepted", "Choose the format csv or json."),
    ],
)
def test_error_page(
    session: Session, alice: Person, bob: Person, path: str, status: int, headline: str, text: str
) -> None:
    assert alice.user is not None
    assert bob.user is not None
    factories.publisher(alice.user)
    factories.publisher(bob.user, "other")
    answer = alice.browser.get(path)
    assert answer.status_code == status
    shown = re.findall(r'<h1 id="fault-h">(.*?)</h1>\s*<p class="quiet">(.*?)</p>', answer.text)
    assert shown == [(headline, text)]
    toast = alice.browser.get(path, headers={"HX-Request": "true"})
    assert (toast.status_code, toast.headers["HX-Reswap"]) == (status, "none")
    assert text.removesuffix(NOT_FOUND).rstrip(". ") in toast.text
    assert "<h1" not in toast.text


def test_method_not_allowed(client: FlaskClient) -> None:
    answer = client.put("/login")
    assert answer.status_code == 405
    assert "Method not allowed" in answer.text
    assert answer.text.count("This address does not support the request.") == 1


@pytest.mark.parametrize(
    "error",
    [
        PoolTimeout("QueuePool limit of size 8 overflow 0 reached, connection timed out"),
        OperationalError("SELECT 1", {}, LockNotAvailable("canceling statement due to lock timeout")),
        OperationalError("SELECT 1", {}, DeadlockDetected("deadlock detected")),
    ],
    ids=["connection", "lock", "deadlock"],
)
@pytest.mark.parametrize("path", ["/api/v1/me", "/threads", "/v1/projects"])
def test_a_server_without_a_free_connection_or_lock_is_busy(
    alice: Person, monkeypatch: pytest.MonkeyPatch, path: str, error: Exception
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(QueuePool, "connect", exhausted)
    answer = alice.browser.get(path, headers=alice.headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "The server is busy" in answer.text
