"""Where sandboxes live on this machine: one slot of a few for each workplace, with a folder and a user of its own, and what dead workers left swept."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from models.core.errors import DomainError
from models.core.settings import Settings
from models.runners.unix_listener import is_dead

FIRST_UID = 61_000
"""Where the server is root, slot n runs as this user plus n, which nothing else should be."""
KEEP_SECONDS = 3_600.0
"""How long the files of a closed workplace stay, for the next one of the same account."""
FEW = 32
"""Files and folders that are removed without a program of their own."""
MARK = "kept"
"""The file of a slot that says which account's files it keeps."""
ETC = {
    "passwd": "root:x:0:0:root:/:/bin/sh\nagent:x:1000:1000:agent:/tmp/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


class SandboxesBusy(DomainError):
    """All slots are in use."""

    status = 503
    code = "sandboxes_busy"
    retry_after = 10


class SandboxSlot:
    """A leased slot: its folder is the caller's alone until `release`, or until this process ends. `uid` None: that of the server."""

    def __init__(self, number: int, folder: Path, uid: int | None, lock: int) -> None:
        self.number = number
        self.folder = folder
        self.uid = uid
        self._lock = lock

    @property
    def work(self) -> Path:
        """The tree."""
        return self.folder / "work"

    def make(self, name: str) -> Path:
        """An empty folder of the slot that its user owns."""
        path = self.folder / name
        self.folder.mkdir(mode=0o711, exist_ok=True)
        self.folder.chmod(0o711)
        if path.exists() and any(path.iterdir()):
            remove(path)
        path.mkdir(exist_ok=True)
        path.chmod(0o700)
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)
        return path

    def clear(self) -> None:
        """Remove all files. No process is left there: each dies with its worker, and with its first process."""
        remove(self.folder)

    def release(self) -> None:
        """Let others have the slot. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class SandboxHome:
    """The slots of this machine for one data directory."""

    def __init__(self, settings: Settings) -> None:
        self.base = _base(settings)
        self.slots = settings.stoa_sandboxes
        self._root = os.geteuid() == 0
        for folder in (self.base, self.base / "slots", self.base / "sockets", self.base / "etc"):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o711)
        for name, text in ETC.items():
            _write_once(self.base / "etc" / name, text)

    @property
    def unreachable(self) -> bool:
        """Whether the users of the slots cannot reach their folders."""
        return self._root and not all(each.stat().st_mode & 0o001 for each in _above(self.base))

    def lease(self, account_id: str, tree: str) -> SandboxSlot:
        """A free slot: one that keeps this tree of the account, else another of it, an empty one, or the one that was unused longest. Raises SandboxesBusy."""
        for number in sorted(range(self.slots), key=lambda number: self._place(number, account_id, tree)):
            slot = self._try(number)
            if slot is not None:
                return slot
        raise SandboxesBusy(
            f"All {self.slots} sandboxes of this server are in use. Try again in a moment, or stop one."
        )

    def sweep(self, *, every: bool = False) -> int:
        """Remove what dead workers left in free slots, and files that were kept too long; `every` also those kept now. Returns how many slots were cleared."""
        cleared = 0
        for number in range(self.slots):
            folder = self.base / "slots" / str(number)
            if not folder.exists():
                continue
            kept = _kept(folder)
            fresh = kept is not None and time.time() - kept[2] < KEEP_SECONDS
            if (fresh and not every) or (slot := self._try(number)) is None:
                continue
            slot.clear()
            slot.release()
            cleared += 1
        for path in (self.base / "sockets").glob("*.sock"):
            if is_dead(path):
                path.unlink(missing_ok=True)
        return cleared

    def _place(self, number: int, account_id: str, tree: str) -> tuple[int, float, int]:
        folder = self.base / "slots" / str(number)
        kept = _kept(folder)
        if kept is None:
            return (3 if folder.exists() else 2, 0, number)
        if kept[0] == account_id:
            return (0 if kept[1] == tree else 1, -kept[2], number)
        return (4, kept[2], number)

    def _try(self, number: int) -> SandboxSlot | None:
        lock = os.open(self.base / f"slot-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        folder = self.base / "slots" / str(number)
        return SandboxSlot(number, folder, FIRST_UID + number if self._root else None, lock)


def keep(slot: SandboxSlot, account_id: str, tree: str, token: str) -> None:
    """Note whose files a slot keeps; `token` tells this time from others."""
    (slot.folder / MARK).write_text(f"{account_id}\n{tree}\n{token}\n", encoding="ascii")


def take_kept(slot: SandboxSlot) -> tuple[str, str, str] | None:
    """Account, tree and token of what a slot kept, which is now the caller's; None if nothing."""
    found = _kept(slot.folder)
    (slot.folder / MARK).unlink(missing_ok=True)
    return (found[0], found[1], found[3]) if found else None


def remove(path: Path) -> None:
    """Remove a folder, whatever is in it: also names, depths and permissions that Python's own functions stumble over."""
    if not path.exists() or _removed_small(path):
        return
    command = ["rm", "-rf", "--one-file-system", "--", str(path)]
    subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    if path.exists():
        subprocess.run(["chmod", "-R", "u+rwX", "--", str(path)], capture_output=True, check=False)  # noqa: S603, S607
        subprocess.run(command, capture_output=True, check=False)  # noqa: S603


def _removed_small(path: Path) -> bool:
    """Remove a folder of a few files here, which costs less than to start a program. No process writes there."""
    found: list[tuple[str, bool]] = [(os.fspath(path), True)]
    try:
        for place, is_folder in found:  # grows meanwhile
            if not is_folder:
                continue
            with os.scandir(place) as rows:
                for row in rows:
                    found.append((row.path, row.is_dir(follow_symlinks=False)))
                    if len(found) > FEW:
                        return False
        for place, is_folder in reversed(found):
            os.rmdir(place) if is_folder else os.unlink(place)
    except OSError:
        return False
    return True


def _kept(folder: Path) -> tuple[str, str, float, str] | None:
    """Account, tree, time and token of what a slot keeps."""
    try:
        path = folder / MARK
        account_id, tree, token = path.read_text(encoding="ascii").splitlines()
        return account_id, tree, path.stat().st_mtime, token
    except (OSError, ValueError):
        return None


def _base(settings: Settings) -> Path:
    """A folder that the users of the slots can reach."""
    data = settings.data_dir.resolve()
    if settings.stoa_sandbox_dir is not None:
        return settings.stoa_sandbox_dir.resolve()
    if os.geteuid() != 0 or all(each.stat().st_mode & 0o001 for each in _above(data)):
        return data / "sandboxes"
    name = f"stoa-sandboxes-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    base = Path(tempfile.gettempdir()) / name
    base.mkdir(mode=0o711, exist_ok=True)
    if base.is_symlink() or base.stat().st_uid != os.geteuid():
        raise OSError(f"{base} belongs to another user")
    return base


def _above(path: Path) -> Iterator[Path]:
    yield from (each for each in (path, *path.parents) if each.exists())


def _write_once(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="ascii") != text:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="ascii") as file:
            file.write(text)
        os.chmod(file.name, 0o644)
        shutil.move(file.name, path)
