"""Finds the files of a project that an import stands for: Python, JavaScript and TypeScript, Go, Rust and Java."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from posixpath import basename, dirname, join, normpath

SCRIPTS = ("javascript", "typescript", "tsx")
_SCRIPT_ENDINGS = (".ts", ".tsx", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts", ".d.ts")
MAX_TARGETS = 40
"""Files that one import stands for, such as those of a package of Go."""


@dataclass(frozen=True)
class ReadFile:
    """What is known of a file for the imports of all. `defines` and `uses` are filled for languages whose imports name packages."""

    path: str
    language: str
    package: str | None = None
    imports: Sequence[tuple[str, int]] = ()
    defines: frozenset[str] = field(default=frozenset())
    uses: Mapping[str, Sequence[int]] = field(default_factory=dict)


class ImportResolver:
    """The imports of one tree of files."""

    def __init__(self, files: Mapping[str, ReadFile], paths: Collection[str]) -> None:
        self._files, self._paths = files, paths if isinstance(paths, (set, frozenset)) else set(paths)
        self._known: dict[tuple[str, str, str], tuple[str, ...]] = {}

    def targets(self, path: str) -> dict[str, list[int]]:
        """The files that a file depends on, each with the lines that say so. Names from outside the project have none."""
        file = self._files[path]
        found: dict[str, list[int]] = {}
        for spec, line in file.imports:
            for target in self._resolved(file, spec):
                if target != path:
                    found.setdefault(target, []).append(line)
        if file.language in ("go", "java"):
            for target, lines in self._neighbours(file):
                found.setdefault(target, []).extend(lines)
        return found

    def _resolved(self, file: ReadFile, spec: str) -> Sequence[str]:
        match file.language:
            case "go":
                return [path for path in self._go_package(file.path, spec) if self._is_used(file, path)]
            case "java":
                return self._java(file, spec)
        group = "script" if file.language in SCRIPTS else file.language
        key = (group, dirname(file.path) if group != "rust" else file.path, spec)
        if key not in self._known:
            candidates = {"python": self._python, "script": self._script, "rust": self._rust}.get(group)
            hit = (
                next((each for each in candidates(file.path, spec) if each in self._paths), None)
                if candidates
                else None
            )
            self._known[key] = (hit,) if hit else ()
        return self._known[key]

    def _is_used(self, file: ReadFile, path: str) -> bool:
        """Whether a file names what another one of a package defines."""
        return not self._files[path].defines.isdisjoint(file.uses)

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
    def _folders(self) -> set[str]:
        found: set[str] = set()
        for path in self._paths:
            at = dirname(path)
            while at and at not in found:
                found.add(at)
                at = dirname(at)
        return found

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

    def _go_package(self, path: str, spec: str) -> Sequence[str]:
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
            for path, file in self._files.items()
            if file.language == "gomod" and file.package
        ]
        return sorted(found, key=lambda each: -len(each[1]))

    @cached_property
    def _go_folders(self) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path, file in sorted(self._files.items()):
            if file.language == "go" and not path.endswith("_test.go"):
                found[dirname(path)].append(path)
        return found

    # -- Java ----------------------------------------------------------------------------------------------------

    @cached_property
    def _java_packages(self) -> dict[str, dict[str, str]]:
        """The classes of each package by name."""
        found: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for path, file in sorted(self._files.items()):
            if file.language == "java":
                for name in file.defines:
                    found[file.package or ""].setdefault(name, path)
        return found

    def _java(self, file: ReadFile, spec: str) -> list[str]:
        if spec.endswith(".*"):
            classes = self._java_packages.get(spec[:-2], {})
            used = [path for name, path in classes.items() if name in file.uses]
            return list(dict.fromkeys(used))[:MAX_TARGETS]
        # a class, one in it, or a static member
        words = spec.split(".")
        for end in range(len(words) - 1, max(0, len(words) - 4), -1):
            hit = self._java_packages.get(".".join(words[:end]), {}).get(words[end])
            if hit:
                return [hit]
        return []

    def _neighbours(self, file: ReadFile) -> Iterator[tuple[str, Sequence[int]]]:
        """Files of the same package need no import: those that define what this one names."""
        if file.language == "java":
            classes = self._java_packages.get(file.package or "", {})
            for name, path in classes.items():
                if path != file.path and name in file.uses:
                    yield path, file.uses[name][:1]
            return
        for path in self._go_folders.get(dirname(file.path), ())[:MAX_TARGETS]:
            names = self._files[path].defines & file.uses.keys() if path != file.path else ()
            if names and self._files[path].package == file.package:
                yield path, [min(file.uses[name][0] for name in names)]

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
