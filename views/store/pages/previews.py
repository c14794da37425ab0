"""Preview pictures of pages for other sites (OpenGraph): 1200 by 630 pixels, drawn in the look of the house.

Words are wrapped by their measured width and clipped; letters that the typeface lacks are left out. A picture is kept in
the process by what it shows, and its digest is its ETag.
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
"""How wide text may be; the colonnade stands to its right."""

STONE, RAISED, LINE, FIRM = (246, 244, 240), (253, 252, 251), (217, 212, 204), (176, 170, 160)
INK, INK_2, SEA, SUN = (34, 30, 25), (76, 71, 64), (18, 87, 138), (229, 165, 58)

DESIGN = "1"
"""Goes up with every change of the drawing, so that kept pictures are asked for anew."""

FONTS = ROOT / "static" / "vendor" / "inter"
Font = ImageFont.FreeTypeFont


def digest(*words: str) -> str:
    """Names a picture by what it shows."""
    return hashlib.sha256("\x00".join((DESIGN, *words)).encode()).hexdigest()[:20]


def answer(picture: bytes, name: str) -> Response:
    """A picture as an answer that may be kept, and asked for again by its digest."""
    response = Response(picture, mimetype="image/png")
    response.headers["Cache-Control"] = "public, max-age=3600"
    response.set_etag(name)
    response.make_conditional(request)
    return response


@lru_cache(maxsize=64)
def card(over: str, title: str, text: str, foot: str, *, fallback: str = "Stoa") -> bytes:
    """A PNG: a small line, a title of two lines, a text of three, and a small line at the foot.

    `fallback` stands for a title that has no letter the typeface knows.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), STONE)
    draw = ImageDraw.Draw(image)
    _colonnade(draw)
    _mark(draw, MARGIN, MARGIN - 8)
    draw.text((MARGIN + 56, MARGIN - 6), _fit(over, _font(30), COLUMN - 56), INK_2, _font(30))
    title_font = _font(76, bold=True)
    lines = _wrapped(_known(title) or fallback, title_font, COLUMN, 2)
    y = 176
    for line in lines:
        draw.text((MARGIN, y), line, INK, title_font)
        y += 88
    y += 20
    for line in _wrapped(_known(text), _font(34), COLUMN, 3):
        draw.text((MARGIN, y), line, INK_2, _font(34))
        y += 48
    draw.text((MARGIN, HEIGHT - MARGIN - 22), _fit(foot, _font(28), COLUMN), SEA, _font(28))
    drawn = io.BytesIO()
    image.save(drawn, "PNG")
    return drawn.getvalue()


def _colonnade(draw: ImageDraw.ImageDraw) -> None:
    """Five columns between beams at the right edge, the nearest of them lit."""
    draw.rectangle((900, 0, WIDTH, HEIGHT), RAISED)
    draw.line((900, 0, 900, HEIGHT), LINE, 2)
    for top, bottom in ((72, 116), (124, 134), (520, 532), (540, 560)):
        draw.rectangle((900, top, WIDTH, bottom), LINE)
    for n, left in enumerate(range(924, 1180, 54)):
        draw.rectangle((left, 146, left + 34, 508), SUN if n == 4 else FIRM)


def _mark(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    """The mark, 40 pixels wide, on its grid of 16."""
    for left, top, width, height, lit in (
        (1, 1, 14, 3, False), (1, 5, 4, 10, False), (6, 5, 3, 10, False), (10, 5, 2, 10, False), (13, 5, 2, 10, True)
    ):  # fmt: skip
        box = [x + left * 2.5, y + top * 2.5, x + (left + width) * 2.5 - 1, y + (top + height) * 2.5 - 1]
        draw.rectangle(box, SUN if lit else INK)


@lru_cache(maxsize=8)
def _font(size: int, *, bold: bool = False) -> Font:
    name = "Inter_600SemiBold.ttf" if bold else "Inter_400Regular.ttf"
    return ImageFont.truetype(str(FONTS / name), size, layout_engine=ImageFont.Layout.BASIC)


def _known(text: str) -> str:
    """The text on one line, of letters that the typeface has."""
    shown = "".join(letter for letter in text[:600] if letter.isspace() or _has(letter))
    return " ".join(shown.split())


@lru_cache(maxsize=4096)
def _has(letter: str) -> bool:
    if letter.isascii():
        return letter.isprintable()
    return letter.isprintable() and _drawn(letter) != _drawn("\U0010ffff")


def _drawn(letter: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(28).getmask(letter)
    return mask.size, bytes(mask)


def _fit(text: str, font: Font, width: int) -> str:
    """As much of the text as one line holds."""
    return (_wrapped(_known(text), font, width, 1) or [""])[0]


def _wrapped(text: str, font: Font, width: int, most: int) -> Sequence[str]:
    """At most `most` lines, broken between words where one fits; what is left out is told by an ellipsis."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < most:
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
    """The longest beginning that fits, at a word's end if there is one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    if low < len(text) and not text[low].isspace():
        space = text.rfind(" ", 1, low)
        low = space if space > 0 else low
    return text[:low]
