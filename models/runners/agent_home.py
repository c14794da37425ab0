"""Home folders of agents' programs that are kept on this machine between turns: one for each name in an account, which only its own sandbox sees."""

import fcntl
import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from models.core.settings import Settings
from models.runners.sandbox_home import remove
from models.runners.sandbox_process import disk_bytes

WAIT_SECONDS = 3.0
"""How long a home that another turn has is waited for: that of a worker that lost its turn is free in a moment."""
USED = "used"
"""The file of a home that says whose it is, and how large it was when it was used last."""


class KeptHome(NamedTuple):
    """A home as it lies on the disk."""

    folder: Path
    account_id: str
    name: str
    bytes: int
    used_at: float


class AgentHome:
    """A home while one workplace has it. `path` is the folder. `close` it when nothing runs there."""

    def __init__(self, folder: Path, account_id: str, name: str, settings: Settings, lock: int) -> None:
        self.path = folder / "home"
        self._folder, self._account_id, self._name, self._settings = folder, account_id, name, settings
        self._lock = lock

    def close(self) -> None:
        """Keep it for the next workplace; one that has grown beyond its quota is removed, as are the oldest of an account that has too much. Idempotent."""
        if self._lock < 0:
            return
        try:
            most = self._settings.stoa_agent_home_mb << 20
            size = disk_bytes([self.path], most)
            if size > most:
                remove(self._folder)
                _lock_file(self._folder).unlink(missing_ok=True)
            else:
                _close_off(self.path)
                note = f"{self._account_id}\n{self._name}\n{size}\n"
                (self._folder / USED).write_text(note, encoding="utf-8")
                _make_room(self._folder.parent, self._settings.stoa_agent_homes_mb << 20)
        finally:
            os.close(self._lock)
            self._lock = -1


def open_home(
    base: Path, account_id: str, name: str, settings: Settings, *, uid: int | None
) -> AgentHome | None:
    """The home of this name in the account, made if there is none, owned by `uid` (None: this process's user). None if homes are not kept, or another workplace has
    it."""
    if not settings.stoa_agent_home_mb:
        return None
    account = _folder(base / "homes") / _hash(account_id)
    folder = _folder(account) / _hash(name)
    lock = _locked(folder, WAIT_SECONDS)
    if lock is None:
        return None
    _folder(folder)
    home = AgentHome(folder, account_id, name, settings, lock)
    home.path.mkdir(mode=0o700, exist_ok=True)
    if uid is not None:
        # the sandbox's user was another one the last time; links are not followed
        command = ["chown", "-R", "-h", "-P", f"{uid}:{uid}", "--", str(home.path)]
        subprocess.run(command, capture_output=True, check=True)  # noqa: S603
    home.path.chmod(0o700)
    return home


def sweep_homes(base: Path, settings: Settings, living: Callable[[list[KeptHome]], set[str]]) -> int:
    """Remove homes that were not used for long, or whose name is not among those that `living` returns; returns how many. Those in use stay."""
    found = [home for account in _children(base / "homes") for home in _homes(account)]
    names = living(found)
    oldest = time.time() - settings.stoa_agent_home_days * 86_400
    return sum(_drop(each) for each in found if each.name not in names or each.used_at < oldest)


def _make_room(account: Path, most: int) -> None:
    """Remove the homes of an account that were unused longest, until the others have at most so many bytes."""
    homes = sorted(_homes(account), key=lambda each: each.used_at)
    total = sum(each.bytes for each in homes)
    for each in homes:
        if total <= most:
            return
        if _drop(each):
            total -= each.bytes


def _drop(home: KeptHome) -> bool:
    lock = _locked(home.folder, 0)
    if lock is None:
        return False
    remove(home.folder)
    os.close(lock)
    with suppress(OSError):
        _lock_file(home.folder).unlink()
    return True


def _homes(account: Path) -> Iterator[KeptHome]:
    for folder in _children(account):
        account_id = name = ""
        size, used_at = 0, folder.stat().st_mtime
        with suppress(OSError, ValueError):
            account_id, name, text = (folder / USED).read_text(encoding="utf-8").splitlines()
            size, used_at = int(text), (folder / USED).stat().st_mtime
        if name or time.time() - used_at > 3_600:
            # without a note its worker died in its first turn
            yield KeptHome(folder, account_id, name, size, used_at)


def _close_off(path: Path) -> None:
    """Let nobody reach it until it is opened again."""
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
    path.chmod(0o700)


def _locked(folder: Path, seconds: float) -> int | None:
    """The lock of a home; None if another one holds it for so long."""
    end = time.monotonic() + seconds
    while True:
        lock = os.open(_lock_file(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(_lock_file(folder)).st_ino == os.fstat(lock).st_ino:
                return lock
        except OSError:
            pass
        os.close(lock)
        if time.monotonic() >= end:
            return None
        time.sleep(0.1)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _children(folder: Path) -> list[Path]:
    try:
        return [each for each in folder.iterdir() if each.is_dir() and not each.is_symlink()]
    except OSError:
        return []


def _folder(path: Path) -> Path:
    """A folder that the users of sandboxes can pass through, and not list."""
    path.mkdir(mode=0o711, exist_ok=True)
    path.chmod(0o711)
    return path


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
