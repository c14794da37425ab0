"""What the templates of every room take from Python: one stylesheet, file addresses that may be cached, avatar tints."""

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

bp = Blueprint("look", __name__)

STATIC = ROOT / "static"
STYLESHEET = "css/stoa.css"
IMPORT = re.compile(r'^@import url\("([^"]+)"\);.*$', re.MULTILINE)
YEAR = 365 * 86_400


def init_app(app: Flask) -> None:
    """Give templates `asset`, `site` and the filters `tint`, `initials` and `picture`; serve the joined stylesheet."""
    app.jinja_env.globals.update(asset=asset, site=site)
    app.jinja_env.filters.update(tint=tint, initials=initials, picture=picture)
    app.register_blueprint(bp)
    app.after_request(_cache_named_versions)


def asset(filename: str) -> str:
    """The address of a file under `static/`, with a digest of its content, so that it may be kept for a year."""
    if current_app.debug:
        _joined.cache_clear()
        _digest.cache_clear()
        _address.cache_clear()
    return _address(filename)


def site() -> dict[str, str]:
    """What every page may say of this server: its version, its host and its base address."""
    base = settings().base_url
    return {"version": _version(), "host": urlsplit(base).netloc, "url": base}


def tint(identifier: str | None) -> int:
    """One of six avatar tints (1 to 6), always the same for one id."""
    return zlib.crc32((identifier or "").encode()) % 6 + 1


def initials(name: str | None) -> str:
    """One or two letters for an avatar: first and last word, else the first two letters; `?` for nothing."""
    words = re.findall(r"\w+", (name or "").split("@")[0])
    if not words:
        return "?"
    letters: str = words[0][0] + words[-1][0] if len(words) > 1 else words[0][:2]
    return letters.lower()


def picture(address: str | None) -> str | None:
    """The address of an avatar that a page may show: one that lies here. Another server would learn who reads the page."""
    return address if address and pictures.ADDRESS.fullmatch(address) else None


@bp.get(f"/static/{STYLESHEET}")
def stylesheet() -> Response:
    """All of `static/css` as one file: tokens, bare elements, then the components in their order."""
    response = Response(_joined(), mimetype="text/css")
    response.set_etag(_digest(STYLESHEET))
    response.make_conditional(request)
    return response


@lru_cache(maxsize=1)
def _joined() -> str:
    css = STATIC / "css"
    index = (css / "components.css").read_text(encoding="utf-8")
    files = [css / "tokens.css", css / "base.css", *(css / name for name in IMPORT.findall(index))]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@lru_cache(maxsize=64)
def _address(filename: str) -> str:
    return url_for("static", filename=filename, v=_digest(filename))


@lru_cache(maxsize=64)
def _digest(filename: str) -> str:
    content = _joined().encode() if filename == STYLESHEET else Path(STATIC / filename).read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


@lru_cache(maxsize=1)
def _version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


def _cache_named_versions(response: Response) -> Response:
    if request.endpoint in ("static", "look.stylesheet") and response.status_code in (200, 304):
        kept = f"public, max-age={YEAR}, immutable" if "v" in request.args else "no-cache"
        response.headers["Cache-Control"] = kept
    return response
