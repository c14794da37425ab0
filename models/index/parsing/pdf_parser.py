"""Reads the text of PDF pages."""

import ctypes
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from models.index.parsing.parsed_parts import Parsed, Parts, Unreadable

MAX_OBJECTS = 2_000
"""Objects of a page without text that are looked at for a picture."""


def parse(kind: str, data: bytes) -> tuple[Parsed, Parts]:
    """The pages of a PDF. Raises Unreadable for encrypted and damaged files."""
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise Unreadable("This PDF needs a password. Save it without one and upload it again.") from None
        raise Unreadable("This PDF is damaged and cannot be opened.") from None
    parsed = Parsed("page")
    if pdfium.FPDF_GetFormType(document) in (2, 3):
        parsed.note("The file is a form made with XFA, of which only the static text is read.")
    if document.count_attachments():
        parsed.note("Files attached to the PDF are ignored.")
    if _has_scripts(document):
        parsed.note("Scripts are ignored.")
    return parsed, _pages(document, parsed)


def _pages(document: Any, parsed: Parsed) -> Parts:
    for index in range(len(document)):
        try:
            page = document[index]
        except pypdfium2.PdfiumError:
            parsed.note(f"Page {index + 1} is damaged and was not read.")
            yield ""
            continue
        text = _text(page)
        if not text.strip():
            (parsed.pictures if _has_picture(page) else parsed.empty).append(index + 1)
        page.close()
        yield text


def _text(page: Any) -> str:
    raw = page.raw
    handle = pdfium.FPDFText_LoadPage(raw)
    if not handle:
        return ""
    try:
        count = pdfium.FPDFText_CountChars(handle)
        if count <= 0:
            return ""
        buffer = (ctypes.c_ushort * (count + 1))()
        written = pdfium.FPDFText_GetText(handle, 0, count, buffer)
        text = bytes(buffer)[: max(written - 1, 0) * 2].decode("utf-16-le", "replace")
    finally:
        pdfium.FPDFText_ClosePage(handle)
    # pdfium marks a hyphen at the end of a line, whose word continues on the next
    return text.replace("\ufffe\r\n", "").replace("\ufffe", "").replace("\u00ad\r\n", "")


def _has_picture(page: Any) -> bool:
    found = min(pdfium.FPDFPage_CountObjects(page.raw), MAX_OBJECTS)
    kinds = (pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_SHADING, pdfium.FPDF_PAGEOBJ_FORM)
    return any(
        pdfium.FPDFPageObj_GetType(pdfium.FPDFPage_GetObject(page.raw, index)) in kinds
        for index in range(found)
    )


def _has_scripts(document: Any) -> bool:
    return bool(pdfium.FPDFDoc_GetJavaScriptActionCount(document) > 0)
