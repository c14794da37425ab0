"""`/uploads/avatars/…`: stored avatars, served with immutable caching."""

from flask import Blueprint, Response, request

from models.core.db import db
from models.core.errors import NotFound
from models.core.files import files
from models.store import publishers
from models.store.catalogue import pictures
from views.web.guards import settings

bp = Blueprint("avatars", __name__)

YEAR = 365 * 86_400


@bp.get("/uploads/avatars/<name>")
def avatar(name: str) -> Response:
    """Serve a picture by its SHA-256: cached for a year, sandboxed by CSP. Raises NotFound."""
    if not pictures.ADDRESS.fullmatch(request.path) or publishers.hides_picture(request.path):
        raise NotFound("There is no such picture.")
    db.session.rollback()  # release the connection: the bucket may be slow
    if name.removesuffix(".webp") in request.if_none_match:
        response = Response(status=304)
    else:
        picture = pictures.read(files(settings()), name)
        if picture is None:
            raise NotFound("There is no such picture.")
        response = Response(picture, mimetype="image/webp")
    response.set_etag(name.removesuffix(".webp"))
    response.headers["Cache-Control"] = f"public, max-age={YEAR}, immutable"
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response
