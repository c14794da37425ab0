"""Who you are: the token of the environment, those that are stored on this computer, and device login (RFC 8628)."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Callable

from stoa.failures import SIGNED_OUT, Failure, Refused, Unreachable, plain
from stoa.server_calls import Server

GRANT = "urn:ietf:params:oauth:grant-type:device_code"


def token_for(url: str, chosen: bool) -> str | None:
    """The token for a server: that of STOA_TOKEN, else the stored one. STOA_TOKEN goes only to a server that the user or the server's own
    file names (`chosen`), never to one that a folder names, which somebody else may have made."""
    token = os.environ.get("STOA_TOKEN") or os.environ.get("STOA_KEY")
    if token and chosen:
        if not all("!" <= each <= "~" for each in token):
            raise Failure("STOA_TOKEN is not a token.", code="UNAUTHORIZED", exit_code=SIGNED_OUT)
        return token
    if found := stored().get(url):
        return str(found["access_token"])
    if token:
        raise Failure(
            f"This folder belongs to {url}. If you trust that server with STOA_TOKEN, name it: --url or STOA_URL.",
            code="UNAUTHORIZED",
            exit_code=SIGNED_OUT,
        )
    return None


def sign_in(server: Server, say: Callable[[str], None]) -> dict[str, Any]:
    """Let the user approve this computer in a browser, and store the token. Returns who signed in. Raises Failure."""
    started = server.post("/v1/oauth/device")
    say(f"Open this page in a browser and approve the code {plain(started['user_code'])}:\n")
    say(f"  {plain(started.get('verification_uri_complete') or started['verification_uri'])}\n")
    interval = float(started.get("interval", 5))
    end = time.monotonic() + float(started.get("expires_in", 900))
    while time.monotonic() < end:
        server.sleep(interval)
        try:
            granted = server.post(
                "/v1/oauth/token", {"grant_type": GRANT, "device_code": started["device_code"]}
            )
        except Unreachable:
            continue
        except Refused as error:
            if error.code == "slow_down" or error.status == 429:
                interval += 5
            elif error.code != "authorization_pending":
                raise _final(error) from None
            continue
        user = granted.get("user") or {}
        _store({**stored(), server.url: {"access_token": granted["access_token"], "user": user}})
        return dict(user)
    raise Failure(
        "The code has expired. Run the command again for a new one.",
        code="expired_token",
        exit_code=SIGNED_OUT,
    )


def sign_out(server: Server) -> bool:
    """Forget the stored token of a server; whether there was one."""
    all = stored()
    found = all.pop(server.url, None)
    if found:
        _store(all)
    return found is not None


def author_of(server: Server) -> tuple[str, str]:
    """Name and e-mail of who signed in, for the snapshots of a working copy; empty if the server does not say."""
    try:
        user = server.get("/v1/auth/me")["user"]
    except Refused as error:
        if error.status != 404:
            raise
        user = server.get("/api/v1/me", fields="email")
    clean = [" ".join(plain(user.get(key) or "").split())[:200] for key in ("name", "email")]
    return clean[0], clean[1]


def stored() -> dict[str, Any]:
    """Stored tokens, by server. Raises Failure."""
    try:
        found = json.loads(_place().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Failure(f"{_place()} cannot be read ({error}). Delete it and sign in again.") from None
    return found if isinstance(found, dict) else {}


def _final(error: Refused) -> Failure:
    message = {
        "access_denied": "You refused this computer on the page.",
        "expired_token": "The code has expired. Run the command again for a new one.",
    }.get(error.code, str(error))
    return Failure(message, code=error.code, exit_code=SIGNED_OUT)


def _place() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home, "stoa", "tokens.json")


def _store(all: dict[str, Any]) -> None:
    write_private(_place(), all)


def write_private(place: Path, value: Any) -> None:
    """Write JSON that only this user may read."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = place.with_name(f"{place.name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
    os.replace(temporary, place)
