"""Asks providers whether a token is right, before it is stored."""

from collections.abc import Mapping
from typing import Any

import requests

from models.core.db import extension
from models.deployments.provider_credential import ProviderTokenRefused, ProviderTokenUnverified

SECONDS = 15.0


def verify_credential(provider: str, token: str) -> Mapping[str, Any]:
    """What the provider says that a token reaches: the ids and names of its accounts. Blocks; call it outside of a transaction. Raises
    ProviderTokenRefused and ProviderTokenUnverified (400)."""
    return _cloudflare(token) if provider == "cloudflare" else _railway(token)


def _cloudflare(token: str) -> Mapping[str, Any]:
    base = extension("settings").cloudflare_base_url
    said = _ask("Cloudflare", "GET", f"{base}/user/tokens/verify", token)
    if not said.get("success") or _part(said, "result").get("status") != "active":
        raise ProviderTokenRefused("Cloudflare does not accept this token, or it is not active.")
    listed = _ask("Cloudflare", "GET", f"{base}/accounts", token).get("result")
    first = next((each for each in listed if isinstance(each, dict)), {}) if isinstance(listed, list) else {}
    return (
        {"account_id": str(first["id"])[:100], "account": str(first.get("name", ""))[:200]}
        if "id" in first
        else {}
    )


def _railway(token: str) -> Mapping[str, Any]:
    """A token of an account says whose it is; one of a workspace only which workspaces it reaches."""
    base = extension("settings").railway_base_url
    said = _ask("Railway", "POST", base, token, {"query": "query { me { id name } }"})
    me = _part(_part(said, "data"), "me")
    if "id" in me:
        return {"user_id": str(me["id"])[:100], "name": str(me.get("name") or "")[:200]}
    said = _ask("Railway", "POST", base, token, {"query": "query { apiToken { workspaces { id name } } }"})
    listed = _part(_part(said, "data"), "apiToken").get("workspaces")
    first = next((each for each in listed if isinstance(each, dict)), {}) if isinstance(listed, list) else {}
    if "id" not in first:
        raise ProviderTokenRefused(
            "Railway does not accept this token. Use one of an account or a workspace, not of a project."
        )
    return {"workspace_id": str(first["id"])[:100], "name": str(first.get("name") or "")[:200]}


def _ask(who: str, method: str, url: str, token: str, body: Any = None) -> Mapping[str, Any]:
    try:
        answer = requests.request(
            method,
            url,
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=SECONDS,
            allow_redirects=False,
        )
        said = answer.json()
    except (requests.RequestException, ValueError):
        # the error may repeat the request
        raise ProviderTokenUnverified(f"{who} could not be asked. Try again in a minute.") from None
    if answer.status_code in (400, 401, 403):
        raise ProviderTokenRefused(f"{who} does not accept this token.")
    if answer.status_code != 200 or not isinstance(said, dict):
        raise ProviderTokenUnverified(f"{who} answered {answer.status_code}. Try again in a minute.")
    return said


def _part(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = said.get(key)
    return found if isinstance(found, dict) else {}
