"""Finds the files of a project that an import stands for: Python, JavaScript and TypeScript, Go, Rust and Java."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from posixpath import basename, dirname, join, normpath
from typing import NamedTuple

OF_PACKAGES = ("go", "java")
"""Languages whose imports name packages: which of their files is meant, their names say."""
SCRIPTS = ("javascript", "typescript", "tsx")
_SCRIPT_ENDINGS = (".ts", ".tsx", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts", ".d.ts")
MAX_TARGETS = 40
"""Files that one import stands for, such as those of a package of Go."""


class ReadFile(NamedTuple):
    """What is known of a file for the imports of all."""

    path: str
    language: str
    package: str | None = None
    imports: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class FileNames:
    """What a file defines at its top, and the lines of the names that it uses."""

    defines: frozenset[str] = field(default=frozenset())
    uses: Mapping[str, Sequence[int]] = field(default_factory=dict)


_WORDS = re.compile(r"[./:|]+")
NO_NAMES = FileNames()
NamesOf = Callable[[Collection[str]], Mapping[str, FileNames]]
"""The names of files by path: they are asked for where imports name packages, and only of files of these."""
Key = tuple[str, str, str]


class WatchedPaths(set[str]):
    """Paths that note whether one of those that came or went was asked for."""

    def __init__(self, paths: Iterable[str], moved: Collection[str] = ()) -> None:
        super().__init__(paths)
        self.moved, self.met = moved, False

    def __contains__(self, path: object) -> bool:
        if self.moved and path in self.moved:
            self.met = True
        return super().__contains__(path)


class ImportResolver:
    """The imports of one tree of files. `came` and `went` are files that the tree has, or had, since another state (`meets_moved`)."""

    def __init__(
        self,
        files: Mapping[str, ReadFile],
        paths: Collection[str],
        names: NamesOf,
        came: Collection[str] = (),
        went: Collection[str] = (),
    ) -> None:
        self.files, self._names_of = files, names
        self._paths = WatchedPaths(paths, {*came, *went})
        self._came, self._went = came, went
        self._known: dict[Key, tuple[str, ...]] = {}
        self._moved: set[Key] = set()
        self._names: dict[str, FileNames] = {}
        self._java_known: dict[str, dict[str, str]] = {}

    def meets_moved(self, path: str) -> bool:
        """Whether the imports of a file, of a language whose imports name files, may stand for others because files came or went: the look
        for one of them asked for a path or a folder that did."""
        file = self.files[path]
        for spec, _ in file.imports:
            if self._may_meet(file, spec):
                self._resolved(file, spec)
                if self._key(file, spec) in self._moved:
                    return True
        return False

    def _may_meet(self, file: ReadFile, spec: str) -> bool:
        """Whether the look for an import may ask for what moved: it has the name of it, or names no file itself. Most do neither, and are
        not looked for."""
        if not self._moved_names.isdisjoint(_WORDS.split(spec)):
            return True
        match file.language:
            case "python":
                return not spec.partition("|")[0].strip(".")
            case "rust":
                return not self._moved_names.isdisjoint(("lib", "main"))
        return spec.startswith("@") or spec.endswith((".", "/"))

    @cached_property
    def _moved_names(self) -> set[str]:
        moved = {*self._paths.moved, *self._folders.moved}
        return {
            name.partition(".")[0] for path in moved for name in (basename(path), basename(dirname(path)))
        }

    def targets(self, path: str) -> dict[str, list[int]]:
        """The files that a file depends on, each with the lines that say so. Names from outside the project have none."""
        file = self.files[path]
        found: dict[str, list[int]] = {}
        for spec, line in file.imports:
            for target in self._resolved(file, spec):
                if target != path:
                    found.setdefault(target, []).append(line)
        if file.language in OF_PACKAGES:
            for target, lines in self._neighbours(file):
                found.setdefault(target, []).extend(lines)
        return found

    def _resolved(self, file: ReadFile, spec: str) -> Sequence[str]:
        match file.language:
            case "go":
                return self._used(file, self._go_package(spec))
            case "java":
                return self._java(file, spec)
        key = self._key(file, spec)
        if key not in self._known:
            candidates = {"python": self._python, "script": self._script, "rust": self._rust}.get(key[0])
            self._paths.met = self._folders.met = False
            hit = (
                next((each for each in candidates(file.path, spec) if each in self._paths), None)
                if candidates
                else None
            )
            self._known[key] = (hit,) if hit else ()
            if self._paths.met or self._folders.met:
                self._moved.add(key)
        return self._known[key]

    def _key(self, file: ReadFile, spec: str) -> Key:
        group = "script" if file.language in SCRIPTS else file.language
        return group, dirname(file.path) if group != "rust" else file.path, spec

    def _used(self, file: ReadFile, paths: Sequence[str]) -> list[str]:
        """Those of the files of a package that define what a file names."""
        self._load([file.path, *paths])
        uses = self._names[file.path].uses
        return [path for path in paths if not self._names[path].defines.isdisjoint(uses)]

    def _load(self, paths: Iterable[str]) -> None:
        missing = {path for path in paths if path not in self._names}
        if missing:
            found = self._names_of(missing)
            self._names |= {path: found.get(path, NO_NAMES) for path in missing}

    # -- Python --------------------------------------------------------------------------------------------------

    def _python(self, path: str, spec: str) -> Iterator[str]:
        module, _, member = spec.partition("|")
        level = len(module) - len(module.lstrip("."))
        place = module[level:].replace(".", "/")
        if level:
            package = dirname(path)
            for _ in range(level - 1):
                package = dirname(package)
            roots = [package]
        else:
            roots = [root for root in self._roots(path) if self._begins_here(root, place)]
        for root in roots:
            for part in ([join(place, member)] if member and member != "*" else []) + [place]:
                base = join(root, part) if part else root
                for ending in (".py", "/__init__.py", ".pyi"):
                    yield (base + ending).lstrip("/")

    def _roots(self, path: str) -> list[str]:
        """Where absolute imports may begin: the top, or a folder above the file, as src is."""
        above, at = [], dirname(path)
        while at:
            above.append(at)
            at = dirname(at)
        return ["", *reversed(above)]

    def _begins_here(self, root: str, place: str) -> bool:
        first = join(root, place.partition("/")[0])
        return first in self._folders or f"{first}.py" in self._paths

    @cached_property
    def _folders(self) -> WatchedPaths:
        there = _folders_of(self._paths)
        if not self._paths.moved:
            return WatchedPaths(there)
        before = _folders_of((self._paths - set(self._came)) | set(self._went))
        return WatchedPaths(there, there ^ before)

    # -- JavaScript and TypeScript -------------------------------------------------------------------------------

    def _script(self, path: str, spec: str) -> Iterator[str]:
        if spec.startswith("."):
            places = [normpath(join(dirname(path), spec))]
        elif spec.startswith(("@/", "~/", "/")):
            rest = spec.partition("/")[2]
            places = [
                join(root, part, rest) for root in reversed(self._roots(path)) for part in ("src", "app", "")
            ]
        else:
            name, _, rest = spec.partition("/")
            if name.startswith("@"):
                more, _, rest = rest.partition("/")
                name = f"{name}/{more}"
            home = self._packages.get(name.rpartition("/")[2]) if name.startswith("@") else None
            places = [join(home, "src", rest or "index"), join(home, rest or "index")] if home else []
        for place in places:
            yield place
            yield from (place + ending for ending in _SCRIPT_ENDINGS)
            yield from (f"{place}/index{ending}" for ending in _SCRIPT_ENDINGS)
            if place.endswith(".js"):
                yield from (place.removesuffix(".js") + ending for ending in (".ts", ".tsx"))

    @cached_property
    def _packages(self) -> dict[str, str]:
        """The folders with a package.json below another, by name: those of a workspace of packages."""
        return {
            basename(dirname(path)): dirname(path)
            for path in sorted(self._paths)
            if basename(path) == "package.json" and dirname(path)
        }

    # -- Go ------------------------------------------------------------------------------------------------------

    def _go_package(self, spec: str) -> Sequence[str]:
        for home, module in self._go_modules:
            if spec == module or spec.startswith(f"{module}/"):
                folder = join(home, spec[len(module) + 1 :]).rstrip("/")
                return self._go_folders.get(folder, ())[:MAX_TARGETS]
        return ()

    @cached_property
    def _go_modules(self) -> list[tuple[str, str]]:
        """Folders and names of the modules, the longest first."""
        found = [
            (dirname(path), file.package)
            for path, file in self.files.items()
            if file.language == "gomod" and file.package
        ]
        return sorted(found, key=lambda each: -len(each[1]))

    @cached_property
    def _go_folders(self) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path, file in sorted(self.files.items()):
            if file.language == "go" and not path.endswith("_test.go"):
                found[dirname(path)].append(path)
        return found

    # -- Java ----------------------------------------------------------------------------------------------------

    @cached_property
    def _java_files(self) -> dict[str, list[str]]:
        """The files of each package."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path, file in sorted(self.files.items()):
            if file.language == "java":
                found[file.package or ""].append(path)
        return found

    def _java_classes(self, package: str) -> Mapping[str, str]:
        """The files of a package by the classes that they define."""
        if package not in self._java_known:
            paths = self._java_files.get(package, ())
            self._load(paths)
            classes: dict[str, str] = {}
            for path in paths:
                for name in self._names[path].defines:
                    classes.setdefault(name, path)
            self._java_known[package] = classes
        return self._java_known[package]

    def _java(self, file: ReadFile, spec: str) -> list[str]:
        if spec.endswith(".*"):
            self._load([file.path])
            uses = self._names[file.path].uses
            used = [path for name, path in self._java_classes(spec[:-2]).items() if name in uses]
            return list(dict.fromkeys(used))[:MAX_TARGETS]
        # a class, one in it, or a static member
        words = spec.split(".")
        for end in range(len(words) - 1, max(0, len(words) - 4), -1):
            hit = self._java_classes(".".join(words[:end])).get(words[end])
            if hit:
                return [hit]
        return []

    def _neighbours(self, file: ReadFile) -> Iterator[tuple[str, Sequence[int]]]:
        """Files of the same package need no import: those that define what this one names."""
        self._load([file.path])
        uses = self._names[file.path].uses
        if file.language == "java":
            for name, path in self._java_classes(file.package or "").items():
                if path != file.path and name in uses:
                    yield path, uses[name][:1]
            return
        beside = self._go_folders.get(dirname(file.path), ())[:MAX_TARGETS]
        self._load(beside)
        for path in beside:
            names = self._names[path].defines & uses.keys() if path != file.path else ()
            if names and self.files[path].package == file.package:
                yield path, [min(uses[name][0] for name in names)]

    # -- Rust ----------------------------------------------------------------------------------------------------

    def _rust(self, path: str, spec: str) -> Iterator[str]:
        here = self._rust_module(path)
        words = spec.split("::")
        if words[0] == "mod":
            yield from _rust_files(join(here, words[1]))
            return
        match words[0]:
            case "crate":
                base, words = self._rust_root(path), words[1:]
            case "self":
                base, words = here, words[1:]
            case "super":
                base = here
                while words and words[0] == "super":
                    base, words = dirname(base), words[1:]
            case name if name in self._rust_crates:
                base, words = join(self._rust_crates[name], "src"), words[1:]
            case _:
                base = here
        for end in range(min(len(words), 6), 0, -1):
            yield from _rust_files(join(base, *words[:end]))
        if words and spec.split("::")[0] in ("crate", *self._rust_crates):
            yield from (join(base, name) for name in ("lib.rs", "main.rs"))

    def _rust_module(self, path: str) -> str:
        """The folder of the modules in a file."""
        name = basename(path)
        return dirname(path) if name in ("mod.rs", "lib.rs", "main.rs") else path.removesuffix(".rs")

    def _rust_root(self, path: str) -> str:
        at = dirname(path)
        while at:
            if f"{at}/lib.rs" in self._paths or f"{at}/main.rs" in self._paths:
                return at
            at = dirname(at)
        return ""

    @cached_property
    def _rust_crates(self) -> dict[str, str]:
        """The folders with a Cargo.toml, by the name that code has for them."""
        return {
            basename(dirname(path)).replace("-", "_"): dirname(path)
            for path in sorted(self._paths)
            if basename(path) == "Cargo.toml" and dirname(path)
        }


def _rust_files(place: str) -> tuple[str, str]:
    return f"{place}.rs", f"{place}/mod.rs"


def _folders_of(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        at = dirname(path)
        while at and at not in found:
            found.add(at)
            at = dirname(at)
    return found
