"""What Codebuff's clients ask beside calls, and this server has none of: advertisements, their logs, news and releases (contract
2.14, 2.15, A.5)."""

from typing import Any, Literal

from flask import Blueprint, jsonify, redirect, url_for
from flask.typing import ResponseReturnValue
from pydantic import ConfigDict

from models.accounts import scopes
from models.core.errors import DomainError
from views.web.body import Body, discard, read
from views.web.error_bodies import door
from views.web.guards import api_key, key_user, limiter
from views.web.operation import Answers, Operation, ResponseModel

bp = Blueprint("codebuff_extras", __name__)

RELEASES = "https://github.com/CodebuffAI/codebuff-community/releases"
MAX_LOGS = 1 << 20
UNKNOWN: Answers = {401: "No key, or an unknown one"}


class AnyBody(Body):
    """Any object."""

    model_config = ConfigDict(extra="allow")


class NoAd(ResponseModel):
    ad: None
    ads: list[dict[str, Any]]


class AdNotFound(ResponseModel):
    success: Literal[False]
    error: str
    creditsGranted: int


class LogAccepted(ResponseModel):
    success: Literal[True]


class Articles(ResponseModel):
    articles: list[dict[str, str]]


def _require_key() -> None:
    if not api_key():
        raise DomainError("Unauthorized", status=401)
    if key_user() is None:
        raise DomainError("Invalid Codebuff API key", status=401)


@bp.post("/api/v1/ads")
@Operation(
    tag="Search and feedback",
    caller="key",
    scope=scopes.ANY,
    body=AnyBody,
    answers={200: ("There is none", NoAd), **UNKNOWN},
    door=door(),
)
def ads() -> ResponseReturnValue:
    """Ask for an advertisement: this server shows none."""
    read(AnyBody)
    _require_key()
    return jsonify(ad=None, ads=[])


@bp.post("/api/v1/ads/impression")
@Operation(
    tag="Search and feedback",
    caller="key",
    scope=scopes.ANY,
    body=AnyBody,
    answers={404: ("There is no such advertisement", AdNotFound), **UNKNOWN},
    door=door(),
)
def impression() -> ResponseReturnValue:
    """Report that an advertisement was seen: no credits are granted for it."""
    read(AnyBody)
    _require_key()
    return jsonify(success=False, error="Ad not found", creditsGranted=0), 404


@bp.post("/api/logs")
@limiter.limit("120/minute")
@Operation(
    tag="Search and feedback",
    body=AnyBody,
    max_bytes=MAX_LOGS,
    anonymous_bytes=MAX_LOGS,
    answers={200: ("Discarded", LogAccepted)},
    door=door(),
)
def logs() -> ResponseReturnValue:
    """Take the log of a client, which is discarded."""
    discard()
    return jsonify(success=True)


@bp.get("/api/feed")
@Operation(tag="Server", answers={200: ("None", Articles)}, door=door())
def feed() -> ResponseReturnValue:
    """List news: this server has none."""
    return jsonify(articles=[])


@bp.get("/api/releases/download/<version>/<filename>")
@Operation(tag="Server", answers={302: "To the release of Codebuff’s command line on GitHub"}, door=door())
def download(version: str, filename: str) -> ResponseReturnValue:
    """Download a release of Codebuff's command line."""
    return redirect(f"{RELEASES}/download/v{version}/{filename}")


@bp.get("/releases")
def releases() -> ResponseReturnValue:
    """Codebuff's releases, an address of the compatible site."""
    return redirect(RELEASES, 307)


@bp.get("/config")
def config() -> ResponseReturnValue:
    """How to set up clients, an address of the compatible site."""
    return redirect(url_for("models.clients"), 307)
