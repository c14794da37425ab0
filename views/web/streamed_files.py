"""The bytes of a stored file as an answer that is sent while it is read."""

from collections.abc import Iterator, Mapping

from flask import Flask, Response, current_app


def streamed(size: int, pieces: Iterator[bytes], headers: Mapping[str, str]) -> Response:
    """Bytes of this size as an answer; `headers` are added. A worker holds a few megabytes of it, and no connection to the database
    while the client reads."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    sent = _in_contexts(app, pieces)
    response = Response(sent, content_type="application/octet-stream", headers=headers)
    response.content_length = size
    return response


def _in_contexts(app: Flask, pieces: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        # one for each piece: it ends with the read, and gives the connection back
        with app.app_context():
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece
