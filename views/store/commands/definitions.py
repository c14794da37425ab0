"""Reading agent definitions from untrusted JSON, YAML and TypeScript files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import yaml

from models.store.publishing import typescript_reader
from models.store.publishing.importing import DefinitionFile, ImportResult
from models.store.publishing.typescript_reader import TypeScriptProblem

MAX_BYTES = 5_000_000
SKIPPED_FOLDERS = frozenset({".git", "node_modules", ".venv", "__pycache__"})
BOM = b"\xef\xbb\xbf"
SUFFIXES = frozenset({".json", ".yaml", ".yml", ".ts"})
TYPE = b"AgentDefinition"
"""The type that modules with a definition name."""


class _Plain(yaml.SafeLoader):
    """YAML without aliases, which can expand to gigabytes, and without dates."""

    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in rules if tag != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose the next node. Raises ComposerError for an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)


def read_definitions(place: Path) -> tuple[list[DefinitionFile], list[ImportResult]]:
    """Read the definitions of a file, or of all JSON, YAML and TypeScript files below a folder, and the errors of unreadable files.

    A file holds one definition or a list; a TypeScript module exports one as its default. In a folder, other data and modules, symbolic
    links and `SKIPPED_FOLDERS` are skipped.
    """
    found: list[DefinitionFile] = []
    unread: list[ImportResult] = []
    whole = place.is_file()
    for path in [place] if whole else _files(place):
        name = path.name if whole else path.relative_to(place).as_posix()
        try:
            values = _values(path, whole)
        except _Unreadable as error:
            unread.append(ImportResult(name, "refused", str(error)))
            continue
        for at, value in enumerate(values):
            if whole or _is_definition(value):
                found.append(DefinitionFile(name if len(values) == 1 else f"{name}[{at}]", value))
    return found, unread


class _Unreadable(Exception):
    """A file cannot be read; the message is for the operator."""


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink():
                yield path


def _values(path: Path, whole: bool) -> list[Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise _Unreadable(f"The file is larger than {MAX_BYTES} bytes.")
        documents = _documents(path.suffix.lower(), raw, whole)
    except OSError as error:
        raise _Unreadable(f"The file cannot be read: {error.strerror}.") from None
    except orjson.JSONDecodeError as error:
        raise _Unreadable(f"Invalid JSON: {error}.") from None
    return [each for value in documents for each in (value if isinstance(value, list) else [value])]


def _documents(suffix: str, raw: bytes, whole: bool) -> list[Any]:
    if suffix == ".json":
        return [orjson.loads(raw.removeprefix(BOM))]
    if suffix != ".ts":
        return _yaml(raw)
    # a folder of agents has other modules too
    return _typescript(raw) if whole or (b"export default" in raw and TYPE in raw) else []


def _typescript(raw: bytes) -> list[Any]:
    try:
        return [typescript_reader.read(raw.decode())]
    except UnicodeDecodeError:
        raise _Unreadable("The file is not UTF-8.") from None
    except TypeScriptProblem as problem:
        raise _Unreadable(str(problem)) from None


def _yaml(raw: bytes) -> list[Any]:
    try:
        # a round trip through JSON rejects every other type
        values = orjson.loads(orjson.dumps(list(yaml.load_all(raw, _Plain))))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise _Unreadable(f"Unsupported YAML: {reason}.") from None
    except RecursionError:
        raise _Unreadable("Nested too deeply.") from None
    return [value for value in values if value is not None]


def _is_definition(value: Any) -> bool:
    return isinstance(value, dict) and "id" in value and ("model" in value or "displayName" in value)
