"""A workplace in memory, for tests of what works in one."""

from collections.abc import Callable, Mapping, Sequence

from models.core.errors import Invalid, NotFound
from models.runners.workplace import CommandResult, FileChange, Level, SearchMatch


class FakeWorkplace:
    """Has these files; its commands end as `results` says, by the command or in order, else well."""

    level: Level = "process"

    def __init__(
        self,
        files: Mapping[str, str | bytes] | None = None,
        results: Mapping[str, CommandResult] | None = None,
    ) -> None:
        self.files = {
            path: text.encode() if isinstance(text, str) else text for path, text in (files or {}).items()
        }
        self.results = dict(results or {})
        self.ran: list[str] = []
        self.hosts_closed_after: int | None = None

    def list(self, folder: str = "", *, limit: int = 1_000) -> Sequence[str]:
        start = f"{folder}/" if folder else ""
        below = {path.removeprefix(start) for path in self.files if path.startswith(start)}
        return sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name in below})[:limit]

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        if path not in self.files:
            raise NotFound(f"There is no file '{path}'.")
        if len(self.files[path]) > max_bytes:
            raise Invalid("too large")
        return self.files[path]

    def write(self, path: str, content: bytes, *, executable: bool = False) -> None:
        self.files[path] = content

    def delete(self, path: str) -> None:
        del self.files[path]

    def search(self, words: str, *, folder: str = "", limit: int = 200) -> Sequence[SearchMatch]:
        return []

    def run(
        self,
        command: str,
        *,
        seconds: float,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[str], None] | None = None,
    ) -> CommandResult:
        self.ran.append(command)
        result = self.results.get(command, CommandResult("exit", 0, "fine\n", 0.1))
        if on_output is not None:
            on_output(result.output)
        return result

    def close_hosts(self) -> None:
        if self.hosts_closed_after is None:
            self.hosts_closed_after = len(self.ran)

    def stop(self) -> None: ...

    def changes(self) -> Mapping[str, FileChange]:
        return {}

    def close(self) -> None: ...
