"""The layout of PDF documents: A4 pages with text, columns of text, and rows of names and values, in the typeface Inter."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where it is used: 20 MB of each worker
    from fpdf import FPDF

FONTS = Path(__file__).parents[3] / "static/vendor/inter"
INK, QUIET, LINE = (28, 30, 33), (98, 102, 108), (205, 205, 200)
MARGIN, LINE_HEIGHT = 22, 5.6
"""Millimetres."""

Rows = list[tuple[str, str]]


def blank_pdf(title: str, *, numbered: bool = False) -> "FPDF":
    """A document with one empty page, with page numbers if `numbered`. Characters that Inter lacks are drawn as boxes."""
    from fpdf import FPDF

    class Numbered(FPDF):
        def footer(self) -> None:
            self.set_y(-MARGIN + LINE_HEIGHT)
            style(self, 8.5, False, QUIET)
            self.cell(0, LINE_HEIGHT, f"{title}, page {self.page_no()} of {{nb}}")

    pdf = (Numbered if numbered else FPDF)(format="A4")
    pdf.set_margin(MARGIN)
    pdf.c_margin = 0
    pdf.set_auto_page_break(True, margin=MARGIN)
    pdf.add_font("inter", "", FONTS / "Inter_400Regular.ttf")
    pdf.add_font("inter", "B", FONTS / "Inter_600SemiBold.ttf")
    pdf.set_title(title)
    pdf.set_lang("en")
    pdf.add_page()
    return pdf


def paragraph(
    pdf: "FPDF", words: str, size: float, *, bold: bool = False, colour: tuple[int, int, int] = INK
) -> None:
    """A paragraph over the whole width; `size` is in points."""
    style(pdf, size, bold, colour)
    pdf.multi_cell(0, size * 0.5, words, align="L", new_x="LMARGIN", new_y="NEXT")


def side_by_side(pdf: "FPDF", *columns: tuple[str, list[str]]) -> None:
    """Headed blocks of text side by side."""
    width, top, bottom = pdf.epw / len(columns), pdf.get_y(), pdf.get_y()
    for index, (head, lines) in enumerate(columns):
        left = pdf.l_margin + index * width
        pdf.set_xy(left, top)
        style(pdf, 8.5, False, QUIET)
        pdf.cell(width, LINE_HEIGHT, head, new_x="LEFT", new_y="NEXT")
        style(pdf, 10, False, INK)
        for line in lines:
            pdf.set_x(left)
            pdf.multi_cell(width - 6, LINE_HEIGHT, line, align="L", new_x="LEFT", new_y="NEXT")
        bottom = max(bottom, pdf.get_y())
    pdf.set_xy(pdf.l_margin, bottom)


def value_rows(pdf: "FPDF", rows: Rows, *, bold: bool = False) -> None:
    """Names on the left, values on the right."""
    for name, value in rows:
        style(pdf, 10, bold, INK)
        top = pdf.get_y()
        pdf.set_x(pdf.l_margin + pdf.epw * 0.6)
        pdf.multi_cell(pdf.epw * 0.4, LINE_HEIGHT + 1.4, value, align="R", new_x="LMARGIN", new_y="NEXT")
        below = pdf.get_y()
        if below < top:  # the value moved to the next page
            top = pdf.t_margin
        pdf.set_xy(pdf.l_margin, top)
        pdf.multi_cell(pdf.epw * 0.6, LINE_HEIGHT + 1.4, name, align="L", new_x="LMARGIN", new_y="NEXT")
        pdf.set_y(max(below, pdf.get_y()))


def rule(pdf: "FPDF") -> None:
    """A thin line over the whole width."""
    pdf.set_draw_color(*LINE)
    pdf.line(pdf.l_margin, pdf.get_y() + 1, pdf.l_margin + pdf.epw, pdf.get_y() + 1)
    pdf.ln(2)


def style(pdf: "FPDF", size: float, bold: bool, colour: tuple[int, int, int]) -> None:
    """Choose the typeface of what follows."""
    pdf.set_font("inter", "B" if bold else "", size)
    pdf.set_text_color(*colour)
