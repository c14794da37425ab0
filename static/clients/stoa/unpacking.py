"""Keeps the modules of `stoa.pyz` unpacked on this computer, as Python would compile those in an archive again for every command."""

from __future__ import annotations

import os

import stoa

KEPT = 5
"""Versions that are kept."""


def use_unpacked() -> None:
    """Import the other modules from the unpacked folder; from the archive if there can be none, or if others may write to it."""
    digest = stoa.SERVED.get("digest")
    loader = getattr(stoa, "__loader__", None)
    if not digest or not hasattr(loader, "archive") or os.environ.get("PYTHONDONTWRITEBYTECODE"):
        return
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(cache, "stoa", digest)
    try:
        if not os.path.isdir(folder):
            _unpack(loader, folder)
        status = os.lstat(folder)
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            return
    except OSError:
        return
    stoa.__path__[:] = [folder]


def _unpack(loader: object, folder: str) -> None:
    import shutil
    import tempfile
    import zipfile

    above = os.path.dirname(folder)
    os.makedirs(above, mode=0o700, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=above)
    try:
        with zipfile.ZipFile(loader.archive) as archive:  # type: ignore[attr-defined]
            for name in archive.namelist():
                if name.startswith("stoa/"):
                    with open(os.path.join(temporary, name.partition("/")[2]), "wb") as out:
                        out.write(archive.read(name))
        os.rename(temporary, folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not os.path.isdir(folder):  # another command may have been first
            raise
    versions = sorted((os.path.join(above, each) for each in os.listdir(above)), key=os.path.getmtime)
    for old in versions[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
