"""The launcher `stoa.mjs`, which runs and publishes agents from a terminal: its download, its documentation, and lines to copy."""

import hashlib
import shlex
from functools import lru_cache
from typing import NamedTuple

import orjson
from flask import Blueprint, Flask, Response, request, url_for

from views.web.assets import STATIC, site
from views.web.htmx import render

bp = Blueprint("launcher", __name__)

NAME = "stoa.mjs"
UNFILLED = 'const SERVED = { url: "", version: "" };'
PROMPT = "Introduce yourself."


class Launcher(NamedTuple):
    """The file as this server hands it out."""

    content: str
    sha256: str


def init_app(app: Flask) -> None:
    """Register the routes, and the globals `launcher_line` and `run_line`."""
    app.jinja_env.globals.update(launcher_line=launcher_line, run_line=run_line)
    app.register_blueprint(bp)


def launcher_line(arguments: str) -> str:
    """A shell line that downloads the launcher and starts it with these arguments, which are quoted already."""
    address = shlex.quote(site()["url"] + url_for("launcher.download"))
    return f"curl -fsSO {address} && node {NAME} {arguments}"


def run_line(full_id: str) -> str:
    """A shell line that downloads the launcher and runs an agent. The double quotes also work in PowerShell and cmd.exe."""
    return launcher_line(f'run {shlex.quote(full_id)} "{PROMPT}"')


@bp.get("/clients/stoa.mjs")
def download() -> Response:
    """Download the launcher, with this server's address filled in."""
    launcher = _launcher(site()["url"], site()["version"])
    response = Response(launcher.content, mimetype="text/javascript")
    response.headers["Cache-Control"] = "public, max-age=300"
    response.set_etag(launcher.sha256)
    response.make_conditional(request)
    return response


@bp.get("/docs/cli")
def page() -> Response:
    """Document the launcher: download, checksum, commands, environment and exit codes."""
    launcher = _launcher(site()["url"], site()["version"])
    return render("docs/cli.html", sha256=launcher.sha256, name=NAME, prompt=PROMPT)


@lru_cache(maxsize=4)
def _launcher(url: str, version: str) -> Launcher:
    source = (STATIC / "clients" / NAME).read_text(encoding="utf-8")
    # JSON escapes what could end the string; the file is a module, where U+2028 is an ordinary character
    filled = f"const SERVED = {orjson.dumps({'url': url, 'version': version}).decode()};"
    content = source.replace(UNFILLED, filled, 1)
    return Launcher(content, hashlib.sha256(content.encode()).hexdigest())
