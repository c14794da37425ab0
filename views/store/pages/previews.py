"""Preview images (OpenGraph) of pages: 1200 × 630 pixels PNG.

Text is wrapped by measured width and clipped; characters without a glyph are dropped. Images are cached per process; the
digest of their content is the ETag.
"""

import hashlib
import io
from collections.abc import Sequence
from functools import lru_cache

from flask import Response, request
from PIL import Image, ImageDraw, ImageFont

from models.core.settings import ROOT

WIDTH, HEIGHT = 1200, 630
MARGIN = 80
COLUMN = 760
"""Maximum width of text, left of the colonnade."""

STONE, RAISED, LINE, FIRM = (246, 244, 240), (253, 252, 251), (217, 212, 204), (176, 170, 160)
INK, INK_2, SEA, SUN = (34, 30, 25), (76, 71, 64), (18, 87, 138), (229, 165, 58)

DESIGN = "1"
"""Increment with every change of the design to invalidate cached images."""

FONTS = ROOT / "static" / "vendor" / "inter"
Font = ImageFont.FreeTypeFont


def digest(*texts: str) -> str:
    """The ETag of an image with these texts."""
    return hashlib.sha256("\x00".join((DESIGN, *texts)).encode()).hexdigest()[:20]


def answer(picture: bytes, name: str) -> Response:
    """A cacheable response with the digest as ETag."""
    response = Response(picture, mimetype="image/png")
    response.headers["Cache-Control"] = "public, max-age=3600"
    response.set_etag(name)
    response.make_conditional(request)
    return response


@lru_cache(maxsize=64)
def card(over: str, title: str, text: str, foot: str, *, fallback: str = "Stoa") -> bytes:
    """Draw a PNG: a line above, a title of two lines, a text of three, and a footer line.

    `fallback` replaces a title without any supported character.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), STONE)
    draw = ImageDraw.Draw(image)
    _colonnade(draw)
    _mark(draw, MARGIN, MARGIN - 8)
    draw.text((MARGIN + 56, MARGIN - 6), _fit(over, _font(30), COLUMN - 56), INK_2, _font(30))
    title_font = _font(76, bold=True)
    lines = _wrapped(_supported(title) or fallback, title_font, COLUMN, 2)
    y = 176
    for line in lines:
        draw.text((MARGIN, y), line, INK, title_font)
        y += 88
    y += 20
    for line in _wrapped(_supported(text), _font(34), COLUMN, 3):
        draw.text((MARGIN, y), line, INK_2, _font(34))
        y += 48
    draw.text((MARGIN, HEIGHT - MARGIN - 22), _fit(foot, _font(28), COLUMN), SEA, _font(28))
    drawn = io.BytesIO()
    image.save(drawn, "PNG")
    return drawn.getvalue()


def _colonnade(draw: ImageDraw.ImageDraw) -> None:
    """Draw five columns between beams at the right edge, the last one highlighted."""
    draw.rectangle((900, 0, WIDTH, HEIGHT), RAISED)
    draw.line((900, 0, 900, HEIGHT), LINE, 2)
    for top, bottom in ((72, 116), (124, 134), (520, 532), (540, 560)):
        draw.rectangle((900, top, WIDTH, bottom), LINE)
    for n, left in enumerate(range(924, 1180, 54)):
        draw.rectangle((left, 146, left + 34, 508), SUN if n == 4 else FIRM)


def _mark(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    """Draw the logo, 40 pixels wide, on its grid of 16."""
    for left, top, width, height, lit in (
        (1, 1, 14, 3, False), (1, 5, 4, 10, False), (6, 5, 3, 10, False), (10, 5, 2, 10, False), (13, 5, 2, 10, True)
    ):  # fmt: skip
        box = [x + left * 2.5, y + top * 2.5, x + (left + width) * 2.5 - 1, y + (top + height) * 2.5 - 1]
        draw.rectangle(box, SUN if lit else INK)


@lru_cache(maxsize=8)
def _font(size: int, *, bold: bool = False) -> Font:
    name = "Inter_600SemiBold.ttf" if bold else "Inter_400Regular.ttf"
    return ImageFont.truetype(str(FONTS / name), size, layout_engine=ImageFont.Layout.BASIC)


def _supported(text: str) -> str:
    """The text on one line, without characters that the font lacks."""
    shown = "".join(letter for letter in text[:600] if letter.isspace() or _has_glyph(letter))
    return " ".join(shown.split())


@lru_cache(maxsize=4096)
def _has_glyph(letter: str) -> bool:
    if letter.isascii():
        return letter.isprintable()
    return letter.isprintable() and _glyph(letter) != _glyph("\U0010ffff")


def _glyph(letter: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(28).getmask(letter)
    return mask.size, bytes(mask)


def _fit(text: str, font: Font, width: int) -> str:
    """Truncate the text to one line."""
    return (_wrapped(_supported(text), font, width, 1) or [""])[0]


def _wrapped(text: str, font: Font, width: int, max_lines: int) -> Sequence[str]:
    """Wrap into at most `max_lines` lines, between words where possible; truncated text ends with an ellipsis."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < max_lines:
        line = _line(rest, font, width)
        rest = rest[len(line) :].strip()
        lines.append(line.strip())
    if rest:
        last = lines[-1]
        while last and font.getlength(f"{last}…") > width:
            last = last[:-1].rstrip()
        lines[-1] = f"{last}…"
    return lines


def _line(text: str, font: Font, width: int) -> str:
    """The longest prefix that fits, cut between words if possible."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    if low < len(text) and not text[low].isspace():
        space = text.rfind(" ", 1, low)
        low = space if space > 0 else low
    return text[:low]
