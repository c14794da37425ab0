"""What engines, checks and builds use to work on the files of a tree, whatever the level of isolation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from models.core.errors import Conflict

Level = Literal["virtual", "process", "machine"]
LEVELS: tuple[Level, ...] = ("virtual", "process", "machine")
"""`virtual`: files are read, searched and changed in memory, nothing is executed. `process`: commands run in a sandbox on this server.
`machine`: they run on a runner of the user's own."""
Ended = Literal["exit", "timeout", "memory", "output", "disk", "stopped", "lost"]


class NoProcesses(Conflict):
    """The level runs no commands."""

    code = "no_processes"


@dataclass(frozen=True)
class Limits:
    """Limits of a workplace."""

    wall_seconds: float = 600.0
    cpu_seconds: int = 300
    memory_bytes: int = 1 << 30
    processes: int = 128
    disk_bytes: int = 1 << 30
    output_bytes: int = 1 << 20
    """Of one command, both streams together; what is beyond is cut, and said."""


class CommandResult(NamedTuple):
    """How a command ended. `exit_code` is None unless `ended` is `exit`; `output` has both streams as they came, cut to the limit."""

    ended: Ended
    exit_code: int | None
    output: str
    seconds: float
    cut: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself with 0."""
        return self.ended == "exit" and self.exit_code == 0


class SearchMatch(NamedTuple):
    """A line that matches; `line` counts from 1."""

    path: str
    line: int
    text: str


class Matches(list[SearchMatch]):
    """What a search found; `cut` if there may be more than was looked at, or than was asked for."""

    cut = False


@dataclass(frozen=True)
class FileChange:
    """What stands at a path now: the bytes of a file or the target of a link; nothing if it was deleted (`content` and `target` None)."""

    content: bytes | None = None
    executable: bool = False
    target: str | None = None

    @property
    def deleted(self) -> bool:
        """Whether nothing stands there."""
        return self.content is None and self.target is None


class TreeChanges(dict[str, FileChange]):
    """What differs from a tree, by path. `refused` names what a manifest cannot hold, by path, and why: it is not among the changes."""

    def __init__(self, changes: Mapping[str, FileChange] = MappingProxyType({})) -> None:
        super().__init__(changes)
        self.refused: dict[str, str] = {}


class Workplace(Protocol):
    """The files of one tree, opened for one piece of work. Paths are relative, with `/`; one that leaves the tree raises Invalid, a missing one NotFound.
    Links are never followed: one on the way to a file, or in its place, raises Invalid and says where it leads."""

    level: Level

    def list(self, folder: str = "", *, limit: int = 1_000) -> Sequence[str]:
        """Names in a folder, sorted; those of folders end with `/`."""

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """The bytes of a file. Raises NotFound; Invalid if it is larger."""

    def write(self, path: str, content: bytes, *, executable: bool | None = None) -> None:
        """Write a file and the folders above it; with `executable` None it stays as it is, a new one is not. Raises Invalid for a folder, and beyond the limits."""

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with what is in it. Raises NotFound."""

    def search(self, words: str, *, folder: str = "", limit: int = 200) -> Matches:
        """Lines that contain the words as they stand, in the order of paths, whatever the case; binary and large files are left out. Bounded in files, bytes and time."""

    def run(
        self,
        command: str,
        *,
        seconds: float,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[str], None] | None = None,
    ) -> CommandResult:
        """Run a shell command in the root of the tree. Raises NoProcesses."""

    def close_hosts(self) -> None:
        """From now on commands reach no host, also those that the workplace was opened with. Idempotent."""

    def stop(self) -> None:
        """End the running command, from any thread. Idempotent."""

    def changes(self) -> TreeChanges:
        """What differs from the tree that was opened, by path; ignored folders (node_modules, .venv and the like) are left out."""

    def close(self) -> None:
        """End all processes and remove what is on disk. Idempotent."""
