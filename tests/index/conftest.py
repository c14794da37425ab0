"""Documents for the tests of this room."""

import io
import zipfile
from collections.abc import Callable

import pytest
from fpdf import FPDF

from models import index
from models.core.db import db
from models.core.job_queue import transaction
from models.index import Document, document_parsing
from models.index.document_parsing import parse_document
from models.index.parser_runner import ParserOutput
from tests.factories import Person

Upload = Callable[..., Document]


@pytest.fixture
def upload(alice: Person) -> Upload:
    """Adds a document to alice's account, or another scope, and parses it."""

    def add(
        name: str,
        data: bytes | str,
        *,
        kind: str = "account",
        scope: str = "",
        account: str = "",
        parse: bool = True,
    ) -> Document:
        account = account or alice.id
        raw = data.encode() if isinstance(data, str) else data
        document = index.add_document(account, alice.id, kind, scope or account, name, raw)
        db.session.commit()
        if parse:
            parse_document(transaction, document.id)
        return document

    return add


def pdf(*pages: str) -> bytes:
    """A PDF with these pages; an empty one has a picture."""
    document = FPDF()
    document.set_font("helvetica", size=11)
    for page in pages:
        document.add_page()
        if page:
            document.multi_cell(0, 6, page)
        else:
            document.image(picture(), x=10, y=10, w=50)
    return bytes(document.output())


def picture() -> io.BytesIO:
    """A small picture."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    stream.seek(0)
    return stream


def archive(files: dict[str, bytes | str]) -> bytes:
    """A ZIP with these files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return stream.getvalue()


WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/><Override PartName="/word/document.xml"
ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
RELATIONS = """<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
Target="word/document.xml"/></Relationships>"""


def docx(*paragraphs: str, more: dict[str, bytes | str] | None = None, head: str = "") -> bytes:
    """A Word file with these paragraphs."""
    body = "".join(f"<w:p><w:r><w:t>{each}</w:t></w:r></w:p>" for each in paragraphs)
    document = f'<?xml version="1.0"?>{head}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    files: dict[str, bytes | str] = {
        "[Content_Types].xml": TYPES,
        "_rels/.rels": RELATIONS,
        "word/document.xml": document,
    }
    return archive(files | (more or {}))


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are read here, form feeds between pages; a process takes a second."""

    def read(kind: str, data: bytes) -> ParserOutput:
        pages = data.decode().split("\f")
        return ParserOutput("page" if len(pages) > 1 else "line", pages)

    monkeypatch.setattr(document_parsing, "run_parser", read)
