"""Static assets and shared template helpers: the stylesheet, versioned URLs, avatar tints and initials."""

import hashlib
import re
import tomllib
import zlib
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, current_app, request, url_for

from models.core.settings import ROOT
from models.store.catalogue import pictures
from views.web.guards import settings

bp = Blueprint("assets", __name__)

STATIC = ROOT / "static"
STYLESHEET = "css/stoa.css"
IMPORT = re.compile(r'^@import url\("([^"]+)"\);.*$', re.MULTILINE)
YEAR = 365 * 86_400


def init_app(app: Flask) -> None:
    """Register the globals `asset` and `site`, the filters `tint`, `initials` and `picture`, and the stylesheet route."""
    app.jinja_env.globals.update(asset=asset, site=site)
    app.jinja_env.filters.update(tint=tint, initials=initials, picture=picture)
    app.register_blueprint(bp)
    app.after_request(_set_cache_control)


def asset(filename: str) -> str:
    """The URL of a file in `static/`, with a digest of its content, cacheable for a year."""
    if current_app.debug:
        _stylesheet.cache_clear()
        _digest.cache_clear()
        _address.cache_clear()
    return _address(filename)


def site() -> dict[str, str]:
    """Version, host and base URL of this server."""
    base = settings().base_url
    return {"version": _version(), "host": urlsplit(base).netloc, "url": base}


def tint(identifier: str | None) -> int:
    """A stable avatar tint for an id, 1 to 6."""
    return zlib.crc32((identifier or "").encode()) % 6 + 1


def initials(name: str | None) -> str:
    """One or two letters for an avatar: of the first and last word, or the first two; `?` for an empty name."""
    words = re.findall(r"\w+", (name or "").split("@")[0])
    if not words:
        return "?"
    letters: str = words[0][0] + words[-1][0] if len(words) > 1 else words[0][:2]
    return letters.lower()


def picture(address: str | None) -> str | None:
    """The URL of an avatar served by this server, or None: other servers could track readers of the page."""
    return address if address and pictures.ADDRESS.fullmatch(address) else None


@bp.get(f"/static/{STYLESHEET}")
def stylesheet() -> Response:
    """All stylesheets in one response: tokens, base elements, then components in order."""
    response = Response(_stylesheet(), mimetype="text/css")
    response.set_etag(_digest(STYLESHEET))
    response.make_conditional(request)
    return response


@lru_cache(maxsize=1)
def _stylesheet() -> str:
    css = STATIC / "css"
    index = (css / "components.css").read_text(encoding="utf-8")
    files = [css / "tokens.css", css / "base.css", *(css / name for name in IMPORT.findall(index))]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@lru_cache(maxsize=64)
def _address(filename: str) -> str:
    return url_for("static", filename=filename, v=_digest(filename))


@lru_cache(maxsize=64)
def _digest(filename: str) -> str:
    content = _stylesheet().encode() if filename == STYLESHEET else Path(STATIC / filename).read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


@lru_cache(maxsize=1)
def _version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


def _set_cache_control(response: Response) -> Response:
    if request.endpoint in ("static", "assets.stylesheet") and response.status_code in (200, 304):
        policy = f"public, max-age={YEAR}, immutable" if "v" in request.args else "no-cache"
        response.headers["Cache-Control"] = policy
    return response
