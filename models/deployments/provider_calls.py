"""Calls to the APIs of providers: each fault as one sentence for the user, without what was sent."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import requests

from models.core import outgoing
from models.core.db import extension, now
from models.deployments.deployment_adapter import DeploymentFailed, ProviderBusy

SECONDS = 60.0
"""Of one call."""
PAUSE = 30.0
"""Seconds until a provider that did not answer is asked again, if it names none."""
MAX_REASON = 300


class ProviderMissing(DeploymentFailed):
    """The provider knows nothing by this name."""


class ProviderAnswer(NamedTuple):
    """The status and the JSON object of an answer."""

    status: int
    said: Mapping[str, Any]


def call(
    who: str, method: str, url: str, token: str, *, seconds: float | None = None, **sent: Any
) -> ProviderAnswer:
    """Call a provider, which its users call `who`. Blocks: call it outside of a transaction. `sent` are arguments of `requests.request`. Raises
    ProviderBusy, ProviderMissing, DeploymentFailed."""
    seconds = SECONDS if seconds is None else seconds
    headers = {"Authorization": f"Bearer {token}", "User-Agent": "Stoa", **sent.pop("headers", {})}
    try:
        answer = requests.request(
            method, url, headers=headers, timeout=seconds, allow_redirects=False, **sent
        )
    except requests.Timeout:
        raise ProviderBusy(f"{who} did not answer within {seconds:.0f} seconds.", PAUSE) from None
    except requests.RequestException:
        # its text may repeat the request
        raise ProviderBusy(f"{who} cannot be reached.", PAUSE) from None
    try:
        said = answer.json()
    except ValueError:
        said = None
    _check(who, answer, said)
    if not isinstance(said, dict):
        raise DeploymentFailed(f"{who} does not answer as expected.")
    return ProviderAnswer(answer.status_code, said)


def first_message(said: Any) -> str:
    """The message of the first error of an answer, as the end of a sentence: empty if there is none."""
    errors = said.get("errors") if isinstance(said, dict) else None
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    text = str(first.get("message") or (said.get("message") if isinstance(said, dict) else None) or "")
    text = " ".join(text.split())[:MAX_REASON].rstrip(".")
    return f": {text}" if text else ""


def seconds_to_wait(header: str | None, otherwise: float = PAUSE) -> float:
    """What a `Retry-After` header says: seconds, or until a date."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return max(1.0, float(text))
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return otherwise
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(1.0, (moment - now()).total_seconds())


def moment_of(text: Any) -> datetime | None:
    """A time that a provider tells; None if it is none."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def public_answer(address: str) -> requests.Response | None:
    """What a public address answers; None if it cannot be reached."""
    session = outgoing.guarded(requests.Session(), extension("settings"))
    try:
        return session.get(address, headers={"User-Agent": "Stoa"})
    except requests.RequestException:
        return None
    finally:
        session.close()


def _check(who: str, answer: requests.Response, said: Any) -> None:
    status, reason = answer.status_code, first_message(said)
    if status < 300:
        return
    if status == 429:
        raise ProviderBusy(
            f"{who} allows no more calls for now.", seconds_to_wait(answer.headers.get("Retry-After"), 60.0)
        )
    if status >= 500:
        raise ProviderBusy(
            f"{who} answered {status}{reason}.", seconds_to_wait(answer.headers.get("Retry-After"))
        )
    if status == 401:
        raise DeploymentFailed(f"{who} no longer accepts the token. Store a new one under Connections.")
    if status == 403:
        raise DeploymentFailed(
            f"{who} does not allow this to the token{reason}. Store one with more rights under Connections."
        )
    if status == 404:
        raise ProviderMissing(f"{who} has no such thing{reason}.")
    raise DeploymentFailed(f"{who} answered {status}{reason}.")
