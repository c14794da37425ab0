"""The client of projects, `stoa.pyz`: one file for Python, made of the modules in static/clients/stoa."""

import hashlib
import io
import zipfile
from functools import lru_cache
from typing import NamedTuple

import orjson
from flask import Blueprint, Response, request

from models.runners.sandbox_command import FORWARDER
from views.web.assets import STATIC, site

bp = Blueprint("client_archive", __name__)

NAME = "stoa.pyz"
UNFILLED = 'SERVED = {"url": "", "version": "", "digest": ""}'
START = """import sys

if sys.version_info < (3, 9):
    sys.exit("stoa.pyz needs Python 3.9 or later.")

from stoa.unpacking import use_unpacked

use_unpacked()

from stoa.terminal import main

main()
"""
_MOMENT = (1980, 1, 1, 0, 0, 0)


class ClientArchive(NamedTuple):
    """The file as this server hands it out."""

    content: bytes
    sha256: str


@bp.get(f"/clients/{NAME}")
def download() -> Response:
    """Download the client of projects, with this server's address filled in."""
    archive = client_archive(site()["url"], site()["version"])
    response = Response(archive.content, mimetype="application/zip")
    response.headers["Cache-Control"] = "public, max-age=300"
    response.set_etag(archive.sha256)
    response.make_conditional(request)
    return response


@lru_cache(maxsize=4)
def client_archive(url: str, version: str) -> ClientArchive:
    """The client for the server at this URL; the same bytes from the same sources."""
    sources = {
        file.name: file.read_text(encoding="utf-8")
        for file in sorted([*(STATIC / "clients" / "stoa").glob("*.py"), FORWARDER])
    }
    digest = hashlib.sha256(repr(sources).encode()).hexdigest()[:32]
    written = io.BytesIO()
    written.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(written, "a", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", START)
        for name, source in sources.items():
            _add(archive, f"stoa/{name}", _filled(source, url, version, digest))
    content = written.getvalue()
    return ClientArchive(content, hashlib.sha256(content).hexdigest())


def _filled(source: str, url: str, version: str, digest: str) -> str:
    # a string of JSON is one of Python too
    filled = f"SERVED = {orjson.dumps({'url': url, 'version': version, 'digest': digest}).decode()}"
    return source.replace(UNFILLED, filled, 1)


def _add(archive: zipfile.ZipFile, name: str, source: str) -> None:
    info = zipfile.ZipInfo(name, _MOMENT)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    archive.writestr(info, source)
