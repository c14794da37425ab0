"""Draws receipts and credit notes as PDF: one A4 page, or more if needed, with the typeface Inter embedded."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where it is used: 20 MB of each worker
    from fpdf import FPDF

FONTS = Path(__file__).parents[3] / "static/vendor/inter"
INK, QUIET, LINE = (28, 30, 33), (98, 102, 108), (205, 205, 200)
MARGIN, LINE_HEIGHT = 22, 5.6
"""Millimetres."""

Rows = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Document:
    """The text of a receipt or credit note. `changes` and `net` follow the total of a receipt with refunds or disputes."""

    title: str
    number: str
    seller: list[str]
    buyer: list[str]
    facts: Rows
    lines: Rows
    total: tuple[str, str]
    changes: Rows = field(default_factory=list)
    net: tuple[str, str] | None = None
    test: str | None = None


def document_pdf(document: Document) -> bytes:
    """The PDF file. Characters that Inter lacks are drawn as boxes."""
    from fpdf import FPDF

    pdf = FPDF(format="A4")
    pdf.set_margin(MARGIN)
    pdf.c_margin = 0
    pdf.set_auto_page_break(True, margin=MARGIN)
    pdf.add_font("inter", "", FONTS / "Inter_400Regular.ttf")
    pdf.add_font("inter", "B", FONTS / "Inter_600SemiBold.ttf")
    pdf.set_title(f"{document.title} {document.number}")
    pdf.set_lang("en")
    pdf.add_page()
    _text(pdf, document.title, 22, bold=True)
    _text(pdf, document.number, 9, colour=QUIET)
    if document.test:
        _text(pdf, document.test, 9, bold=True)
    pdf.ln(8)
    _columns(pdf, ("From", document.seller), ("Billed to", document.buyer))
    pdf.ln(8)
    _rows(pdf, document.facts)
    pdf.ln(6)
    _rule(pdf)
    _rows(pdf, document.lines)
    _rule(pdf)
    _rows(pdf, [document.total], bold=True)
    if document.changes:
        pdf.ln(4)
        _rows(pdf, document.changes)
        _rule(pdf)
        _rows(pdf, [document.net] if document.net else [], bold=True)
    return bytes(pdf.output())


def _text(
    pdf: "FPDF", text: str, size: float, *, bold: bool = False, colour: tuple[int, int, int] = INK
) -> None:
    _style(pdf, size, bold, colour)
    pdf.multi_cell(0, size * 0.5, text, align="L", new_x="LMARGIN", new_y="NEXT")


def _columns(pdf: "FPDF", *columns: tuple[str, list[str]]) -> None:
    """Headed blocks of text side by side."""
    width, top, bottom = pdf.epw / len(columns), pdf.get_y(), pdf.get_y()
    for index, (head, lines) in enumerate(columns):
        left = pdf.l_margin + index * width
        pdf.set_xy(left, top)
        _style(pdf, 8.5, False, QUIET)
        pdf.cell(width, LINE_HEIGHT, head, new_x="LEFT", new_y="NEXT")
        _style(pdf, 10, False, INK)
        for line in lines:
            pdf.set_x(left)
            pdf.multi_cell(width - 6, LINE_HEIGHT, line, align="L", new_x="LEFT", new_y="NEXT")
        bottom = max(bottom, pdf.get_y())
    pdf.set_xy(pdf.l_margin, bottom)


def _rows(pdf: "FPDF", rows: Rows, *, bold: bool = False) -> None:
    """Names on the left, values on the right."""
    for name, value in rows:
        _style(pdf, 10, bold, INK)
        top = pdf.get_y()
        pdf.set_x(pdf.l_margin + pdf.epw * 0.6)
        pdf.multi_cell(pdf.epw * 0.4, LINE_HEIGHT + 1.4, value, align="R", new_x="LMARGIN", new_y="NEXT")
        below = pdf.get_y()
        if below < top:  # the value moved to the next page
            top = pdf.t_margin
        pdf.set_xy(pdf.l_margin, top)
        pdf.multi_cell(pdf.epw * 0.6, LINE_HEIGHT + 1.4, name, align="L", new_x="LMARGIN", new_y="NEXT")
        pdf.set_y(max(below, pdf.get_y()))


def _rule(pdf: "FPDF") -> None:
    pdf.set_draw_color(*LINE)
    pdf.line(pdf.l_margin, pdf.get_y() + 1, pdf.l_margin + pdf.epw, pdf.get_y() + 1)
    pdf.ln(2)


def _style(pdf: "FPDF", size: float, bold: bool, colour: tuple[int, int, int]) -> None:
    pdf.set_font("inter", "B" if bold else "", size)
    pdf.set_text_color(*colour)
