"""Reading agent definitions from JSON and YAML files, which are somebody else's and may be anything."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import yaml

from models.store.publishing.importing import DefinitionFile, ImportResult

MAX_BYTES = 5_000_000
PASSED_OVER = frozenset({".git", "node_modules", ".venv", "__pycache__"})
BOM = b"\xef\xbb\xbf"
SUFFIXES = frozenset({".json", ".yaml", ".yml"})


class _Plain(yaml.SafeLoader):
    """YAML without aliases (a few lines of them can stand for gigabytes) and without dates."""

    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in rules if tag != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node, unless it is an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not taken", mark)
        return super().compose_node(parent, index)


def read_definitions(place: Path) -> tuple[list[DefinitionFile], list[ImportResult]]:
    """The definitions in a file, or in all JSON and YAML files below a folder; and what could not be read, and why.

    A file holds one definition or a list of them. In a folder, data that is plainly no definition is passed over, and
    so are links and the folders of other tools.
    """
    found: list[DefinitionFile] = []
    unread: list[ImportResult] = []
    whole = place.is_file()
    for path in [place] if whole else _files(place):
        name = path.name if whole else path.relative_to(place).as_posix()
        try:
            values = _values(path)
        except _Unreadable as error:
            unread.append(ImportResult(name, "refused", str(error)))
            continue
        for at, value in enumerate(values):
            if whole or _is_definition(value):
                found.append(DefinitionFile(name if len(values) == 1 else f"{name}[{at}]", value))
    return found, unread


class _Unreadable(Exception):
    """Why a file cannot be read, for the operator."""


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - PASSED_OVER)
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink():
                yield path


def _values(path: Path) -> list[Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise _Unreadable(f"The file has more than {MAX_BYTES} bytes.")
        documents = [orjson.loads(raw.removeprefix(BOM))] if path.suffix.lower() == ".json" else _yaml(raw)
    except OSError as error:
        raise _Unreadable(f"The file cannot be read: {error.strerror}.") from None
    except orjson.JSONDecodeError as error:
        raise _Unreadable(f"This is no JSON: {error}.") from None
    return [each for value in documents for each in (value if isinstance(value, list) else [value])]


def _yaml(raw: bytes) -> list[Any]:
    try:
        # through JSON, so that nothing but what JSON knows goes on
        values = orjson.loads(orjson.dumps(list(yaml.load_all(raw, _Plain))))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        words = " ".join(str(error).split())
        raise _Unreadable(f"This is no YAML that can be used: {words}.") from None
    except RecursionError:
        raise _Unreadable("This is nested too deep.") from None
    return [value for value in values if value is not None]


def _is_definition(value: Any) -> bool:
    return isinstance(value, dict) and "id" in value and ("model" in value or "displayName" in value)
