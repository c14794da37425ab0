"""Reads Word, PowerPoint and Excel files. Macros do not run, links are not followed, bombs are refused before they unpack."""

import io
import zipfile
from collections.abc import Iterator
from typing import Any

from models.index.parsing.parsed_parts import Parsed, Parts, Unreadable, row_text
from models.index.parsing.text_parsers import html_text

MAX_ENTRIES = 10_000
MAX_UNPACKED = 300 << 20
"""Bytes of all files in the archive, and of its XML."""
MAX_XML = 64 << 20
MAX_RATIO = 300
"""An XML file that unpacks to more than this multiple is refused above a megabyte."""
MAX_ROWS = 200_000
MAX_COLUMNS = 500
_DECLARATIONS = tuple(
    mark.encode(encoding)
    for mark in ("<!DOCTYPE", "<!ENTITY")
    for encoding in ("utf-8", "utf-16-le", "utf-16-be")
)


def parse(kind: str, data: bytes) -> tuple[Parsed, Parts]:
    """A Word, PowerPoint or Excel file. Raises Unreadable for damaged and hostile ones."""
    unit = {"docx": "line", "pptx": "slide", "xlsx": "sheet"}[kind]
    parsed = Parsed(unit)
    _check(data, parsed)
    return parsed, {"docx": _word, "pptx": _slides, "xlsx": _sheets}[kind](data, parsed)


def _check(data: bytes, parsed: Parsed) -> None:
    """Refuse archives that unpack to too much, and XML with a document type, which these formats forbid."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError):
        raise Unreadable("This file is damaged: its archive cannot be opened.") from None
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise Unreadable(f"This file has more than {MAX_ENTRIES:,} parts and was not unpacked.")
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
        raise Unreadable(f"This file unpacks to more than {MAX_UNPACKED >> 20} MB and was not unpacked.")
    for entry in entries:
        name = entry.filename.lower()
        if name.endswith(("vbaproject.bin", "vbadata.xml")):
            parsed.note("Macros are ignored.")
        if (name.endswith(".bin") and "/embeddings/" in name) or "/embeddings/" in name:
            parsed.note("Embedded files are ignored.")
        if name.endswith((".xml", ".rels")):
            _check_xml(archive, entry, parsed)


def _check_xml(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, parsed: Parsed) -> None:
    bomb = entry.file_size > 1 << 20 and entry.file_size > MAX_RATIO * max(entry.compress_size, 1)
    if entry.file_size > MAX_XML or bomb:
        raise Unreadable("A part of this file unpacks to far more than its size; it was not unpacked.")
    try:
        content = archive.read(entry)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError):
        raise Unreadable("This file is damaged or encrypted: a part of it cannot be unpacked.") from None
    except Exception as error:  # zlib and lzma have errors of their own
        raise Unreadable("This file is damaged: a part of it cannot be unpacked.") from error
    if any(mark in content for mark in _DECLARATIONS):
        raise Unreadable("This file declares XML entities, which Office files never need; it was not read.")
    if entry.filename.endswith(".rels") and b'TargetMode="External"' in content:
        parsed.note("Links to other files and sites are not followed.")


def _word(data: bytes, parsed: Parsed) -> Iterator[str]:
    import mammoth

    pictures = 0

    def picture(image: Any) -> list[Any]:
        nonlocal pictures
        pictures += 1
        return []

    result = mammoth.convert_to_html(
        io.BytesIO(data), convert_image=picture, external_file_access=False, include_embedded_style_map=False
    )
    text = html_text(result.value, parsed)
    if pictures:
        parsed.note("1 picture has no text." if pictures == 1 else f"{pictures:,} pictures have no text.")
    yield text


def _slides(data: bytes, parsed: Parsed) -> Iterator[str]:
    from pptx import Presentation

    for number, slide in enumerate(Presentation(io.BytesIO(data)).slides, 1):
        lines: list[str] = []
        pictures = _shape_lines(slide.shapes, lines)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            notes = slide.notes_slide.notes_text_frame.text.strip()
            if notes:
                lines += ["", f"Notes: {notes}"]
        text = "\n".join(lines)
        if not text.strip():
            (parsed.pictures if pictures else parsed.empty).append(number)
        yield text


def _shape_lines(shapes: Any, lines: list[str]) -> int:
    """Add the texts of shapes and groups, in order; returns the number of pictures."""
    pictures = 0
    waiting = list(reversed(list(shapes)))
    while waiting:
        shape = waiting.pop()
        if hasattr(shape, "shapes"):
            waiting.extend(reversed(list(shape.shapes)))
        elif getattr(shape, "has_table", False) and shape.has_table:
            lines += [row_text(cell.text for cell in row.cells) for row in shape.table.rows]
        elif shape.has_text_frame:
            lines += [
                text for text in shape.text_frame.text.replace("\x0b", "\n").split("\n") if text.strip()
            ]
        elif getattr(shape, "has_chart", False) and shape.has_chart:
            if shape.chart.has_title and shape.chart.chart_title.has_text_frame:
                lines.append(shape.chart.chart_title.text_frame.text)
        else:
            pictures += 1
    return pictures


def _sheets(data: bytes, parsed: Parsed) -> Iterator[str]:
    from python_calamine import CalamineWorkbook

    workbook = CalamineWorkbook.from_filelike(io.BytesIO(data))
    for number, name in enumerate(workbook.sheet_names, 1):
        sheet = workbook.get_sheet_by_name(name)
        lines = [f"# {' '.join(name.split())}"]
        for rows, row in enumerate(sheet.iter_rows(), 1):
            if rows > MAX_ROWS:
                parsed.note(f"Stopped after {MAX_ROWS:,} rows of sheet {number}.")
                break
            if len(row) > MAX_COLUMNS:
                parsed.note(f"Sheet {number} has more than {MAX_COLUMNS} columns; the others are ignored.")
            line = row_text(_cell(value) for value in row[:MAX_COLUMNS])
            if line:
                lines.append(line)
        if len(lines) == 1:
            parsed.empty.append(number)
        yield "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
