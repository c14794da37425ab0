"""Draws receipts and credit notes as PDF: one A4 page, or more if needed."""

from dataclasses import dataclass, field

from views.billing.pages.pdf_layout import QUIET, Rows, blank_pdf, paragraph, rule, side_by_side, value_rows


@dataclass(frozen=True, slots=True)
class ReceiptDocument:
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


def document_pdf(document: ReceiptDocument) -> bytes:
    """The PDF file."""
    pdf = blank_pdf(f"{document.title} {document.number}")
    paragraph(pdf, document.title, 22, bold=True)
    paragraph(pdf, document.number, 9, colour=QUIET)
    if document.test:
        paragraph(pdf, document.test, 9, bold=True)
    pdf.ln(8)
    side_by_side(pdf, ("From", document.seller), ("Billed to", document.buyer))
    pdf.ln(8)
    value_rows(pdf, document.facts)
    pdf.ln(6)
    rule(pdf)
    value_rows(pdf, document.lines)
    rule(pdf)
    value_rows(pdf, [document.total], bold=True)
    if document.changes:
        pdf.ln(4)
        value_rows(pdf, document.changes)
        rule(pdf)
        value_rows(pdf, [document.net] if document.net else [], bold=True)
    return bytes(pdf.output())
