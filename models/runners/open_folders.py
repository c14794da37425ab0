"""Files of a folder that programs may change meanwhile: each step is by descriptor and follows no link, so that no path leads elsewhere."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.core.errors import Invalid, NotFound

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def opened_folder(root: Path, path: str, *, owner: int | None = None, make: bool = False) -> Iterator[int]:
    """The descriptor of a folder below `root`, the empty path is the root; `make` makes missing ones, for the user `owner`. Raises NotFound, and Invalid for a link or a file."""
    here = os.open(root, FOLDER)
    try:
        walked: list[str] = []
        for segment in path.split("/") if path else []:
            walked.append(segment)
            below = _below(here, segment, "/".join(walked), owner, make)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def subfolder(folder: int, name: str) -> int | None:
    """The descriptor of a folder in an open one; None if there is none, or it cannot be read."""
    try:
        return os.open(name, FOLDER, dir_fd=folder)
    except OSError:
        return None


def read_file(folder: int, name: str, path: str, most: int) -> bytes:
    """The bytes of a file in an open folder; `path` is for messages. Raises NotFound, and Invalid for what is no file, is larger, or may not be read."""
    try:
        number = os.open(name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        raise NotFound(f"There is no file or folder {path[:200]}.") from None
    except OSError:
        raise _no_file(folder, name, path) from None
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise _no_file(folder, name, path)
        if found.st_size > most:
            raise Invalid(
                f"{path[:200]} has {found.st_size:,} bytes, more than the {most:,} that are read at once."
            )
        data = bytearray()
        while len(data) <= most and (piece := os.read(number, most + 1 - len(data))):
            data += piece
    finally:
        os.close(number)
    if len(data) > most:
        raise Invalid(f"{path[:200]} grows while it is read.")
    return bytes(data)


def write_file(folder: int, name: str, path: str, content: bytes, mode: int, owner: int | None) -> None:
    """Write a file in an open folder in the place of one that is there, for the user `owner`. Raises Invalid for a folder, or if the disk is full."""
    try:
        _unlink(folder, name)
        number = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder
        )
        with open(number, "wb", buffering=0) as file:
            left = memoryview(content)
            while left:
                left = left[file.write(left) or 0 :]
            os.fchmod(number, mode)
            if owner is not None:
                os.fchown(number, owner, owner)
    except IsADirectoryError:
        raise Invalid(f"{path[:200]} is a folder.") from None
    except OSError as error:
        raise Invalid(f"{path[:200]} cannot be written: {error.strerror}.") from None


def lstat(folder: int, name: str) -> os.stat_result | None:
    """What is there, itself if it is a link; None if nothing is."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None


def _unlink(folder: int, name: str) -> None:
    there = lstat(folder, name)
    if there is None:
        return
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError
    os.unlink(name, dir_fd=folder)


def _below(here: int, name: str, path: str, owner: int | None, make: bool) -> int:
    found = subfolder(here, name)
    if found is not None:
        return found
    there = lstat(here, name)
    if there is None and make:
        try:
            os.mkdir(name, 0o755, dir_fd=here)
        except OSError as error:
            raise Invalid(f"{path[:200]} cannot be made: {error.strerror}.") from None
        made = os.open(name, FOLDER, dir_fd=here)
        if owner is not None:
            os.fchown(made, owner, owner)
        return made
    if there is None:
        raise NotFound(f"There is no file or folder {path[:200]}.")
    raise _no_folder(here, name, path, there.st_mode)


def _no_folder(here: int, name: str, path: str, mode: int) -> Invalid:
    if stat.S_ISLNK(mode):
        return _link(here, name, path)
    if stat.S_ISDIR(mode):
        return Invalid(f"{path[:200]} may not be read.")
    return Invalid(f"{path[:200]} is a file.")


def _no_file(folder: int, name: str, path: str) -> Invalid:
    there = lstat(folder, name)
    if there is not None and stat.S_ISLNK(there.st_mode):
        return _link(folder, name, path)
    if there is not None and stat.S_ISDIR(there.st_mode):
        return Invalid(f"{path[:200]} is a folder.")
    if there is not None and stat.S_ISREG(there.st_mode):
        return Invalid(f"{path[:200]} may not be read.")
    return Invalid(f"{path[:200]} is no ordinary file.")


def _link(folder: int, name: str, path: str) -> Invalid:
    try:
        target = os.readlink(name, dir_fd=folder)
    except OSError:
        target = "another path"
    return Invalid(f"{path[:200]} is a link to {target[:200]!r}: name the file itself.")
