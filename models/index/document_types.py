"""What kind of document some bytes are, by their content. The name only tells texts from one another."""

import re
from typing import NamedTuple

from models.core.errors import DomainError

MAX_BYTES = 20 << 20
TAIL = 2 << 20
"""Bytes at the end of an archive in which its list of files is looked for."""
HEAD = 64 << 10


class DocumentType(NamedTuple):
    """The parser that reads a document, and its media type."""

    kind: str
    media_type: str


class UnknownType(DomainError):
    """The file is no document that can be read."""

    status = 415
    code = "unsupported_media_type"


READABLE = "PDF, Word (.docx), PowerPoint (.pptx), Excel (.xlsx), HTML, Markdown or text"
_OFFICE = "application/vnd.openxmlformats-officedocument."
_ARCHIVES = (
    (b"word/document.xml", DocumentType("docx", f"{_OFFICE}wordprocessingml.document")),
    (b"ppt/presentation.xml", DocumentType("pptx", f"{_OFFICE}presentationml.presentation")),
    (b"xl/workbook.xml", DocumentType("xlsx", f"{_OFFICE}spreadsheetml.sheet")),
)
_REFUSED = (
    (
        b"\xd0\xcf\x11\xe0",
        "This is an old or encrypted Office file. Save it as .docx, .pptx or .xlsx without a password.",
    ),
    (b"{\\rtf", "RTF files cannot be read. Save it as .docx or PDF."),
    (b"\x89PNG", "Pictures have no text that can be read. Upload a document."),
    (b"\xff\xd8\xff", "Pictures have no text that can be read. Upload a document."),
    (b"GIF8", "Pictures have no text that can be read. Upload a document."),
    (b"PK", f"This archive is no Office file. Unpack it, and upload {READABLE} files."),
    (b"\x7fELF", "Programs cannot be read. Upload a document."),
)
_TEXT_TYPES = {
    "md": "text/markdown",
    "markdown": "text/markdown",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "json": "application/json",
}
_SPACE = re.compile(rb"\s*")
_HTML = re.compile(rb"<(!doctype\s+html|html|head|body)\b", re.I)
_BEFORE_HTML = ((b"<?xml", b"?>"), (b"<!--", b"-->"))
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\x0b\x0c\r\x1b"))
_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def sniff(data: bytes, name: str) -> DocumentType:
    """The type of a document. Looks at the beginning and end only. Raises UnknownType."""
    head = data[:HEAD]
    if b"%PDF-" in head[:1024]:
        return DocumentType("pdf", "application/pdf")
    if head.startswith(b"PK\x03\x04"):
        for member, found in _ARCHIVES:
            if member in data[-TAIL:]:
                return found
    for magic, sentence in _REFUSED:
        if head.startswith(magic):
            raise UnknownType(sentence)
    if not head.strip():
        raise UnknownType("The file is empty.")
    if not head.startswith(_MARKS) and len(data.translate(None, _CONTROLS)) != len(data):
        raise UnknownType(f"This file is no text and no known document. Upload {READABLE} files.")
    if _is_html(head.removeprefix(b"\xef\xbb\xbf")):
        return DocumentType("html", "text/html")
    ending = name.rpartition(".")[2].lower()
    return DocumentType("text", _TEXT_TYPES.get(ending, "text/plain"))


def _is_html(head: bytes) -> bool:
    """Whether the first element, after a declaration and comments, is one of HTML. No regular expression finds the ends of comments in
    linear time."""
    at = 0
    while found := _SPACE.match(head, at):
        at = found.end()
        end = next((end for begin, end in _BEFORE_HTML if head.startswith(begin, at)), None)
        if end is None:
            return bool(_HTML.match(head, at))
        closed = head.find(end, at)
        if closed < 0:
            return False
        at = closed + len(end)
    return False
