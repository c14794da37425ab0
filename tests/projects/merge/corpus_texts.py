"""Merges of texts by lines, of their shape, and of what is no text."""

from models.projects.merge import MergeLabel, MergeReason
from tests.projects.merge.merge_case import one_file

Label, Reason = MergeLabel, MergeReason
TEXT = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n"
FIRST, LAST = TEXT.replace("two", "TWO"), TEXT.replace("six", "SIX")
BOTH = FIRST.replace("six", "SIX")
BOM = b"\xef\xbb\xbf"


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


TEXTS = [
    one_file("lines apart", "a.txt", TEXT, FIRST, LAST, BOTH, Label.LINES),
    one_file("the same line", "a.txt", TEXT, FIRST, TEXT.replace("two", "zwei"), reason=Reason.SAME_PLACE),
    one_file(
        "lines side by side", "a.txt", TEXT, FIRST, TEXT.replace("three", "drei"), reason=Reason.SAME_PLACE
    ),
    one_file(
        "both make one edit, and another each",
        "a.txt",
        TEXT,
        FIRST.replace("four", "4"),
        LAST.replace("four", "4"),
        BOTH.replace("four", "4"),
        Label.LINES,
    ),
    one_file("both append", "a.txt", TEXT, TEXT + "eight\n", TEXT + "acht\n", reason=Reason.SAME_PLACE),
    one_file(
        "one deletes a line that the other edits",
        "a.txt",
        TEXT,
        TEXT.replace("two\n", ""),
        FIRST,
        reason=Reason.SAME_PLACE,
    ),
    one_file("one empties the file, the other edits", "a.txt", TEXT, "", LAST, reason=Reason.SAME_PLACE),
    one_file(
        "changelog: both add an entry at the top",
        "CHANGELOG.md",
        "# Log\n\n- old\n",
        "# Log\n\n- mine\n- old\n",
        "# Log\n\n- theirs\n- old\n",
        reason=Reason.SAME_PLACE,
    ),
    # the shape
    one_file("CRLF stays", "a.txt", crlf(TEXT), crlf(FIRST), crlf(LAST), crlf(BOTH), Label.LINES),
    one_file(
        "one changes to CRLF, the other edits", "a.txt", TEXT, crlf(TEXT), LAST, crlf(LAST), Label.LINES
    ),
    one_file(
        "one changes to CRLF and edits, the other edits",
        "a.txt",
        TEXT,
        crlf(FIRST),
        LAST,
        crlf(BOTH),
        Label.LINES,
    ),
    one_file(
        "one changes from CRLF, the other edits", "a.txt", crlf(TEXT), TEXT, crlf(LAST), LAST, Label.LINES
    ),
    one_file(
        "mixed line ends stay as they are",
        "a.txt",
        b"one\r\n" + TEXT.encode(),
        b"one\r\n" + FIRST.encode(),
        b"one\r\n" + LAST.encode(),
        b"one\r\n" + BOTH.encode(),
        Label.LINES,
    ),
    one_file(
        "a byte order mark stays",
        "a.txt",
        BOM + TEXT.encode(),
        BOM + FIRST.encode(),
        BOM + LAST.encode(),
        BOM + BOTH.encode(),
        Label.LINES,
    ),
    one_file(
        "one drops the mark and edits the first line, the other edits",
        "a.txt",
        BOM + TEXT.encode(),
        TEXT.replace("one", "ONE"),
        BOM + LAST.encode(),
        LAST.replace("one", "ONE"),
        Label.LINES,
    ),
    one_file(
        "one ends the last line, the other edits it",
        "a.txt",
        "one\ntwo\nthree",
        "one\ntwo\nthree\n",
        "one\ntwo\nTHREE",
        "one\ntwo\nTHREE\n",
        Label.LINES,
    ),
    one_file(
        "a file without a last line end",
        "a.txt",
        "one\ntwo\nthree",
        "ONE\ntwo\nthree",
        "one\ntwo\nTHREE",
        "ONE\ntwo\nTHREE",
        Label.LINES,
    ),
    # what is no text
    one_file("binary", "a.bin", b"\0one\n", b"\0two\n", b"\0one\nmore\n", reason=Reason.BINARY),
    one_file("a text becomes binary", "a.txt", TEXT, TEXT + "\0", LAST, reason=Reason.BINARY),
    one_file(
        "UTF-16",
        "a.txt",
        TEXT.encode("utf-16"),
        FIRST.encode("utf-16"),
        LAST.encode("utf-16"),
        reason=Reason.BINARY,
    ),
    one_file(
        "a PDF file that looks like text",
        "a.pdf",
        b"%PDF-1.4\n" + TEXT.encode(),
        b"%PDF-1.4\n" + FIRST.encode(),
        b"%PDF-1.4\n" + LAST.encode(),
        reason=Reason.BINARY,
    ),
    one_file(
        "Latin-1",
        "a.txt",
        "é\n".encode("latin-1") + TEXT.encode(),
        "è\n".encode("latin-1") + TEXT.encode(),
        "é\n".encode("latin-1") + LAST.encode(),
        "è\n".encode("latin-1") + LAST.encode(),
        Label.LINES,
    ),
    one_file(
        "a lock file",
        "web/package-lock.json",
        '{\n  "a": 1,\n\n\n  "b": 1\n}\n',
        '{\n  "a": 2,\n\n\n  "b": 1\n}\n',
        '{\n  "a": 1,\n\n\n  "b": 2\n}\n',
        reason=Reason.LOCK_FILE,
    ),
    one_file("another lock file", "Cargo.lock", TEXT, FIRST, LAST, reason=Reason.LOCK_FILE),
    one_file(
        "conflict markers in a text are text",
        "a.md",
        "<<<<<<< a\n" + TEXT,
        "<<<<<<< a\n" + FIRST,
        "<<<<<<< a\n" + LAST,
        "<<<<<<< a\n" + BOTH,
        Label.LINES,
    ),
]
