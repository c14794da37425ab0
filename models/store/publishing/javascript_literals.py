"""The values of JavaScript's string and number literals."""

import re

_ESCAPE = re.compile(
    r"\\(?:u\{0*([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(\r\n|[\s\S]))|\r\n?", re.ASCII
)
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_LINE_ENDS = ("\r\n", "\n", "\r", "\u2028", "\u2029")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SAFE = 2**53


def text_of(raw: str) -> str:
    """The text of what stands between quotes. Line ends are `\\n`, as in templates."""
    text = _ESCAPE.sub(_unescaped, raw)
    # escapes may write a character beyond 0xFFFF as a pair
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unescaped(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    if code:
        point = int(code, 16)
        return chr(point) if point <= 0x10FFFF else "\ufffd"
    escaped = found[4]
    if escaped is None:
        return "\n"
    return "" if escaped in _LINE_ENDS else _SIMPLE.get(escaped, escaped)


def number_of(raw: str) -> int | float | None:
    """The number of a literal, whole ones as int; None for infinite ones, `BigInt` and old octal numbers such as 010."""
    text = raw.replace("_", "")
    if not _NUMBER.fullmatch(text) or (len(text) > 1 and text[0] == "0" and text[1].isdigit()):
        return None
    try:
        value = float(int(text, 0)) if text[:2].lower() in ("0x", "0o", "0b") else float(text)
    except OverflowError:
        return None
    if value == float("inf"):
        return None
    return int(value) if value.is_integer() and value < _SAFE else value
