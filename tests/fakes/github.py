"""A fake GitHub on loopback: an authorize page that always approves, token exchange with PKCE, two API calls."""

import base64
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from flask import Flask, jsonify, redirect, request

from tests.server import serving


@dataclass
class FakeGitHub:
    """The user that signs in next, and the issued codes."""

    url: str = ""
    person: dict[str, Any] = field(default_factory=lambda: {"id": 1, "login": "octocat", "name": "Octo Cat"})
    addresses: list[dict[str, Any]] = field(default_factory=list)
    codes: dict[str, str] = field(default_factory=dict)
    broken: bool = False


def _app(fake: FakeGitHub) -> Flask:
    app = Flask("github")

    @app.get("/login/oauth/authorize")
    def authorize() -> Any:
        code = secrets.token_hex(8)
        assert request.args["code_challenge_method"] == "S256"
        fake.codes[code] = request.args["code_challenge"]
        query = urlencode({"code": code, "state": request.args["state"]})
        return redirect(f"{request.args['redirect_uri']}?{query}")

    @app.post("/login/oauth/access_token")
    def token() -> Any:
        challenge = fake.codes.pop(request.form["code"], None)
        digest = hashlib.sha256(request.form.get("code_verifier", "").encode()).digest()
        if challenge != base64.urlsafe_b64encode(digest).rstrip(b"=").decode():
            return jsonify(error="bad_verification_code", error_description="wrong code")
        return jsonify(access_token="gho_fake", token_type="bearer", scope="read:user,user:email")

    @app.get("/user")
    def user() -> Any:
        assert request.headers["Authorization"] == "Bearer gho_fake"
        return (jsonify(message="down"), 502) if fake.broken else jsonify(fake.person)

    @app.get("/user/emails")
    def emails() -> Any:
        return jsonify(fake.addresses)

    return app


@contextmanager
def fake_github() -> Iterator[FakeGitHub]:
    """Run the server for the duration of the context."""
    fake = FakeGitHub()
    with serving(_app(fake), "localhost") as fake.url:
        yield fake
