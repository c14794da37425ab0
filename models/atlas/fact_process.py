"""The process that reads files of a project: it limits itself, then reads files from stdin and writes the facts of each to stdout.

Started by its path (`fact_runner`). Before each file is a line of JSON with its key, language and size; each answer is a line with the
key and the facts. A file that takes longer than `FILE_SECONDS` ends the process, as one does that crashes a grammar; the answers so
far are kept.
"""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("models", "models.index", "models.atlas", "models.projects", "models.projects.merge")
CPU_SECONDS = 120
FILE_SECONDS = 5.0


def main() -> None:
    """Read all files on stdin."""
    limits = importlib.util.spec_from_file_location(
        "parser_process", ROOT / "models" / "index" / "parsing" / "parser_process.py"
    )
    assert limits is not None
    assert limits.loader is not None
    parsers = importlib.util.module_from_spec(limits)
    limits.loader.exec_module(parsers)
    parsers.limit_itself(CPU_SECONDS)
    reading = parsers.import_alone("models.atlas.fact_reading", *PACKAGES)
    output, source = sys.stdout, sys.stdin.buffer
    while line := source.readline():
        key, language, size = json.loads(line)
        data = source.read(size)
        # the default action ends the process even inside native code
        signal.setitimer(signal.ITIMER_REAL, FILE_SECONDS)
        try:
            facts = reading.read_file(language, data)
        except Exception as error:
            print(type(error).__name__, file=sys.stderr)  # its message may quote the file
            facts = {"lines": 0, "parsed": False, "failed": True}
        signal.setitimer(signal.ITIMER_REAL, 0)
        output.write(json.dumps([key, facts], ensure_ascii=True) + "\n")
        output.flush()


if __name__ == "__main__":
    main()
    os._exit(0)
