"""The shape of a text file: byte order mark, line ends and a newline at the end, which merge apart from the lines."""

from typing import NamedTuple, TypeVar

_BOM = b"\xef\xbb\xbf"
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\f\r\x1b")
_PRINTED = (b"%PDF-", b"%!PS")
"""How files begin that may look like text, and are none to merge."""
T = TypeVar("T")


class TextShape(NamedTuple):
    """`crlf`: every line ends so; None: they are mixed, and stay as they are. `final`: the last line has an end."""

    bom: bool
    crlf: bool | None
    final: bool


def is_binary(data: bytes) -> bool:
    """Whether the bytes are no text of an encoding that keeps ASCII, as UTF-8 and Latin-1 do. UTF-16 counts as binary."""
    return data.startswith(_PRINTED) or len(data.translate(None, _CONTROLS)) != len(data)


def shape_of(data: bytes) -> TextShape:
    """The shape of a text."""
    returns, newlines, pairs = data.count(b"\r"), data.count(b"\n"), data.count(b"\r\n")
    mixed = returns != pairs or 0 < pairs < newlines
    return TextShape(data.startswith(_BOM), None if mixed else pairs > 0, not data or data.endswith(b"\n"))


def plain(data: bytes, shape: TextShape) -> bytes:
    """The text in the plain shape: no mark, lines that end in a newline."""
    if shape.bom:
        data = data[len(_BOM) :]
    if shape.crlf:
        data = data.replace(b"\r\n", b"\n")
    return data if shape.final else data + b"\n"


def shaped(data: bytes, shape: TextShape) -> bytes:
    """A text in the plain shape, in this one."""
    if not shape.final:
        data = data.removesuffix(b"\n")
    if shape.crlf:
        data = data.replace(b"\n", b"\r\n")
    return _BOM + data if shape.bom else data


def merged_shape(base: TextShape, ours: TextShape, theirs: TextShape) -> TextShape | None:
    """The shape that a merge has: each trait that a side changed. None if line ends are mixed, so that no shape is theirs."""
    if None in (base.crlf, ours.crlf, theirs.crlf):
        return None
    return TextShape(
        _changed(base.bom, ours.bom, theirs.bom),
        _changed(base.crlf, ours.crlf, theirs.crlf),
        _changed(base.final, ours.final, theirs.final),
    )


def _changed(base: T, ours: T, theirs: T) -> T:
    """Of two values there is always one that both or one side wants."""
    return theirs if ours == base else ours
