"""Sends an uploaded document back, so that no browser runs or shows it."""

from urllib.parse import quote

from flask import Response

from models import index
from models.core.db import db
from models.core.errors import NotFound
from models.index import Document


def file_response(document: Document) -> Response:
    """The document as a download. Raises NotFound if its bytes are gone, and FilesUnavailable."""
    db.session.commit()  # release the connection while the file is read
    content = index.document_bytes(document)
    if content is None:
        raise NotFound("The content of this document is gone.")
    response = Response(content, mimetype=document.media_type)
    plain = "".join(sign if sign.isalnum() or sign in " .-_" else "_" for sign in document.name)
    plain = plain.encode("ascii", "replace").decode().replace("?", "_")
    response.headers["Content-Disposition"] = (
        f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(document.name, safe='')}"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response
