"""The process that parses one document: it limits itself, then reads stdin and writes JSON lines to stdout.

Started by its path with the kind of the document (`parser_runner`). Each line is `{"part": text}`, and the last one the report; so
what was read before the process is killed is kept.
"""

import ctypes
import importlib
import json
import os
import resource
import sys
import types
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MEMORY = 1 << 30
"""Bytes of address space."""
OUTPUT = 64 << 20
"""Bytes that the process may write to a file."""
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PARSERS = {
    "pdf": "pdf_parser",
    "docx": "office_parsers",
    "pptx": "office_parsers",
    "xlsx": "office_parsers",
    "html": "text_parsers",
    "text": "text_parsers",
}


def limit_itself(cpu_seconds: int) -> None:
    """Limit processor time, memory, files and processes for good, and leave the network where the system allows it."""
    for name, value in (
        ("RLIMIT_CPU", cpu_seconds),
        ("RLIMIT_AS", MEMORY),
        ("RLIMIT_FSIZE", OUTPUT),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NOFILE", 64),
    ):
        with suppress(AttributeError, ValueError, OSError):  # not every system has every limit
            resource.setrlimit(getattr(resource, name), (value, value))
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        if library.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            library.unshare(CLONE_NEWNET)


def import_alone(name: str, *packages: str) -> types.ModuleType:
    """Import a module without the `__init__` of these packages, which would load the whole application for a second."""
    for package in packages:
        module = types.ModuleType(package)
        module.__path__ = [str(ROOT.joinpath(*package.split(".")))]
        sys.modules[package] = module
    sys.path[0] = str(ROOT)
    return importlib.import_module(name)


def main(kind: str, cpu_seconds: int) -> None:
    """Parse the document on stdin."""
    limit_itself(cpu_seconds)
    output = sys.stdout
    sys.stdout = sys.stderr  # a library that prints does not write into the result
    module = import_alone(f"models.index.parsing.{PARSERS[kind]}", "models", "models.index")
    parts = sys.modules["models.index.parsing.parsed_parts"]

    def write(**line: object) -> None:
        output.write(json.dumps(line, ensure_ascii=True) + "\n")
        output.flush()

    try:
        parsed, texts = module.parse(kind, sys.stdin.buffer.read())
        characters = 0
        for count, text in enumerate(texts):
            if count == parts.MAX_PARTS:
                parsed.note(f"Stopped after {count:,} {parsed.unit}s.")
                break
            text = parts.clean(text)
            room = min(parts.MAX_CHARACTERS - characters, parts.MAX_PART_CHARACTERS)
            characters += min(len(text), room)
            write(part=text[:room], unit=parsed.unit)
            if len(text) > room:
                parsed.note(f"Stopped after {characters:,} characters.")
                break
        notes = list(parsed.notes)
        if parsed.pictures:
            are = "is a picture" if len(parsed.pictures) == 1 else "are pictures"
            named = parts.numbers(parsed.pictures, parsed.unit)
            notes.insert(0, f"{named[0].upper()}{named[1:]} {are}: no text.")
        write(report={"unit": parsed.unit, "notes": notes, "pictures": parsed.pictures[:1000]})
    except parts.Unreadable as error:
        write(error=str(error))
    except MemoryError:
        write(error="Reading this file takes too much memory. Split it, or save it as PDF or text.")
    except RecursionError:
        write(error="This file is nested too deeply to be read.")
    except Exception as error:
        print(type(error).__name__, file=sys.stderr)  # its message may quote the document
        write(error="This file is damaged, or not what its name says. Save it again and upload the new file.")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # a damaged document may crash a library's clean-up
