"""The turn's side of a talk with an agent by the Agent Client Protocol: it starts the driver process, passes lines on, and ends it."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

PROGRAM = Path(__file__).with_name("acp_driver.py")
MAX_LINE = 16 << 20
END_SECONDS = 8.0
"""How long the driver may take to end after the talk is closed: it gives the agent time to stop."""
LAST = frozenset({"end", "failed", "gone"})
LOST = "The connection to the agent was lost."


class AcpTalk:
    """One prompt to an agent that already runs. Use it as a context manager: it closes the agent's pipes here, and leaves the agent to who started it."""

    def __init__(
        self,
        output: IO[bytes],
        input: IO[bytes],
        *,
        root: str,
        prompt: str,
        fresh: str,
        session: str | None = None,
        only_again: bool = False,
    ) -> None:
        """`output` and `input` are the agent's stdout and stdin. `prompt` is sent to a session that goes on, `fresh` to a new one: it has what was said
        before. With `only_again` no new one is begun. `root` is the tree, as the agent sees it."""
        self._first = {
            "root": root,
            "session": session,
            "prompt": prompt,
            "fresh": fresh,
            "only_again": only_again,
        }
        self._agent = (output, input)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the talk
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "AcpTalk":
        numbers = [pipe.fileno() for pipe in self._agent]
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-B", str(PROGRAM), *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={"LC_ALL": "C.UTF-8"},
            cwd="/",
            pass_fds=numbers,
            start_new_session=True,
        )
        for pipe in self._agent:
            pipe.close()
        self.send(**self._first)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the driver tells, in order; the last line has `end`, `failed` or `gone`. Blocks."""
        assert self._process is not None
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(MAX_LINE):
            try:
                found: dict[str, Any] = json.loads(line)
            except ValueError:
                break
            yield found
            if found.keys() & LAST:
                return
        yield {"failed": LOST}

    def reply(self, number: int, **answer: Any) -> None:
        """Answer what the driver asked."""
        self.send(reply=number, **answer)

    def cancel(self) -> None:
        """Ask the agent to stop. Safe from any thread; idempotent."""
        self.send(cancel=True)

    def send(self, **line: Any) -> None:
        """Write a line, unless the driver has ended."""
        process = self._process
        if process is None or process.stdin is None:
            return
        with self._lock, suppress(OSError, ValueError):
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()

    def close(self) -> None:
        """End the driver and reap it. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._errors.close()
