"""Sees in one pass that a folder is as it was when it was last read whole, without its tree and hashes: most commands need no more."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable
from itertools import chain, compress
from operator import attrgetter, methodcaller
from typing import Any

FORMAT = 1
_mark = attrgetter("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")
_status = methodcaller("stat", follow_symlinks=False)
_is_folder = methodcaller("is_dir", follow_symlinks=False)


class FolderLook:
    """The entries of a folder, and which of them are `taken`: looked at closely, as they belong to the snapshot or lead to what does."""

    def __init__(self, entries: list[os.DirEntry[str]]) -> None:
        self.entries = entries
        self.taken: list[bool] | None = None

    def ignore(self, number: int) -> None:
        """An entry belongs to no snapshot."""
        if self.taken is None:
            self.taken = [True] * len(self.entries)
        self.taken[number] = False


def remember(file: str, head: str | None, left_out: list[str], looks: dict[str, FolderLook]) -> None:
    """Keep what was seen of all folders when nothing in them differed from the snapshot `head`. Losing it costs time only."""
    temporary = f"{file}.{os.getpid()}.new"
    marks = array("q")
    try:
        rows = [
            [folder, [each.name for each in look.entries], look.taken, _seen(look.entries, look.taken, marks)]
            for folder, look in looks.items()
        ]
        header = json.dumps({"format": FORMAT, "head": head, "left_out": left_out, "folders": rows})
        with open(temporary, "wb") as out:
            out.write(header.encode() + b"\n" + marks.tobytes())
        os.replace(temporary, file)
    except (OSError, ValueError, OverflowError):
        pass


def left_out_if_same(root: str, file: str, head: str | None) -> list[str] | None:
    """If nothing in the folder `root` differs from the snapshot: what belongs to none. Else, or if that is not sure, None."""
    marks = array("q")
    try:
        with open(file, "rb") as kept:
            seen = json.loads(kept.readline())
            expected = kept.read()
        if seen["format"] != FORMAT or seen["head"] != head:
            return None
        for folder, names, taken, kinds in seen["folders"]:
            with os.scandir(f"{root}/{folder}") as listing:
                entries = list(listing)
            if [each.name for each in entries] != names or _seen(entries, taken, marks) != kinds:
                return None
        return list(seen["left_out"]) if marks.tobytes() == expected else None
    except (OSError, ValueError, OverflowError, TypeError, KeyError):
        return None


def _seen(entries: list[os.DirEntry[str]], taken: list[bool] | None, marks: array[int]) -> list[Any]:
    """Add the marks of what is taken; returns whether each of the others is a folder."""
    close: Iterable[os.DirEntry[str]] = entries if taken is None else compress(entries, taken)
    marks.extend(chain.from_iterable(map(_mark, map(_status, close))))
    return (
        [] if taken is None else [_is_folder(each) for each, is_taken in zip(entries, taken) if not is_taken]
    )
