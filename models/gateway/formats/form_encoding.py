"""Encodes a form with files, for providers that take one."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from models.gateway.chat_format import UploadedFile

_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}(?:;[\w=.+ -]{1,100})?", re.ASCII)


def encode_form(fields: Mapping[str, Any], files: Sequence[UploadedFile]) -> tuple[bytes, str]:
    """The body and its content type. Lists are repeated fields; objects are written as JSON."""
    boundary = os.urandom(16).hex()
    parts: list[bytes] = []

    def add(head: str, data: bytes) -> None:
        parts.append(
            f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode("utf-8", "replace")
        )
        parts.extend((data, b"\r\n"))

    for key, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                add(f'name="{_quoted(key)}"', _text(each))
    for file in files:
        kind = file.content_type if _TYPE.fullmatch(file.content_type) else "application/octet-stream"
        add(f'name="{_quoted(file.key)}"; filename="{_quoted(file.name)}"\r\nContent-Type: {kind}', file.data)
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


def _quoted(name: str) -> str:
    """A name without what would end it, as browsers write it."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").replace("\0", "")


def _text(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return orjson.dumps(value)
