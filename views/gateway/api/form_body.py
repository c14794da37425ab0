"""Reads the forms of model calls: their fields, and their files."""

import hashlib

import orjson
from werkzeug import Request
from werkzeug.exceptions import RequestEntityTooLarge

from models.core.cooperative import heavy
from models.gateway.chat_format import BadCall, UploadedFile
from views.web.body import BodyTooLarge
from views.web.content_encoding import UnsupportedEncoding
from views.web.fast_path import MAX_UPLOAD_BYTES

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
MAX_FIELDS = 200
MAX_NAME = 255


def is_form(request: Request) -> bool:
    """Whether the request's body is a form."""
    return request.mimetype in FORMS


def read_form(
    request: Request, most_files: int
) -> tuple[dict[str, str | list[str]], tuple[UploadedFile, ...], bytes]:
    """The fields, of which repeated ones are lists; the files; and what tells the form from others. Raises BadCall, BodyTooLarge,
    UnsupportedEncoding."""
    if request.headers.get("Content-Encoding"):
        raise UnsupportedEncoding("Compressed forms are not supported.")
    request.max_content_length = MAX_UPLOAD_BYTES
    try:
        with heavy(request.content_length or MAX_UPLOAD_BYTES):
            form, uploads = request.form, request.files
    except RequestEntityTooLarge:
        raise BodyTooLarge.than(MAX_UPLOAD_BYTES) from None
    try:
        if len(form) > MAX_FIELDS:
            raise BadCall(f"The form has more than {MAX_FIELDS} fields.")
        given = [(key, file) for key in uploads for file in uploads.getlist(key)]
        if len(given) > most_files:
            raise BadCall(
                f"The form has {len(given)} files; at most {most_files} are allowed.", param=given[0][0]
            )
        fields: dict[str, str | list[str]] = {}
        for key, values in form.lists():
            fields[key] = values if len(values) > 1 or key.endswith("[]") else values[0]
        files = tuple(
            UploadedFile(
                key, (file.filename or "file")[:MAX_NAME], file.content_type or "", file.stream.read()
            )
            for key, file in given
        )
    finally:
        request.close()
    digests = [[file.key, file.name, hashlib.sha256(file.data).hexdigest()] for file in files]
    return fields, files, orjson.dumps([fields, digests])
