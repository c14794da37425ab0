"""What a project is built with and needs, told from its files by weighted rules (fastest contract 4.11)."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from models.projects.snapshots.blob_packs import read_blobs
from models.projects.snapshots.manifest_text import Entry

MAX_READ, MAX_SOURCES, MAX_REASONS = 256 << 10, 200, 6
SCRIPTS = (".js", ".ts", ".tsx", ".mjs", ".cjs")
PYTHON_FILES = ("requirements.txt", "pyproject.toml", "setup.py", "Pipfile")
FRAMEWORKS = {
    "next": 0.85,
    "nuxt": 0.85,
    "remix": 0.8,
    **dict.fromkeys(("express", "fastify", "hono", "koa", "nestjs"), 0.7),
    **dict.fromkeys(("react", "vue", "svelte"), 0.6),
}
PACKAGES = {"remix": ("@remix-run/react", "@remix-run/node", "remix"), "nestjs": ("@nestjs/core",)}
NEEDS_CONFIG = ("next", "nuxt")
DATABASES = {
    "postgres": ("pg", "postgres", "@prisma/client", "prisma", "drizzle-orm", "typeorm", "sequelize", "knex"),
    "mysql": ("mysql", "mysql2"),
    "redis": ("redis", "ioredis", "@upstash/redis", "bull", "bullmq"),
}
VARIABLES = {"postgres": "DATABASE_URL", "mysql": "DATABASE_URL", "redis": "REDIS_URL"}
STORAGE = ("@aws-sdk/client-s3", "aws-sdk", "@google-cloud/storage", "multer", "formidable")
EDGE = ("@cloudflare/workers-types", "@cloudflare/kv-asset-handler", "wrangler", "hono")
WRANGLER = ("wrangler.toml", "wrangler.jsonc", "wrangler.json")
_NODE_ONLY = re.compile(r"""(?:from|require\()\s*['"](?:node:)?(?:fs|child_process|net)['"]""")
_EDGE_HINT = re.compile(r"""runtime\s*[:=]\s*['"](?:experimental-)?edge['"]""")


class DetectionSignal(NamedTuple):
    """A rule that held, its weight and why."""

    id: str
    confidence: float
    reason: str


@dataclass
class DetectedNeeds:
    """What was found. `declined` says what of it this server does not do, and why."""

    runtime: str | None = None
    framework: str | None = None
    databases: list[tuple[str, str]] = field(default_factory=list)
    edge: bool = False
    storage: bool = False
    build_command: str | None = None
    start_command: str | None = None
    confidence: float = 0.0
    signals: list[DetectionSignal] = field(default_factory=list)
    declined: list[str] = field(default_factory=list)

    @property
    def reasons(self) -> list[str]:
        """The strongest reasons first, at most six."""
        ordered = sorted(self.signals, key=lambda each: -each.confidence)
        return [each.reason for each in ordered[:MAX_REASONS]]


Read = Callable[[Collection[str]], Mapping[str, str]]
"""The texts of those of these paths that are files of at most `MAX_READ` bytes."""


def detect_needs(account_id: str, entries: Iterable[Entry]) -> DetectedNeeds:
    """What the files of a tree need. Reads a few files, and at most `MAX_SOURCES` sources. Raises FilesUnavailable (503), BlobDamaged."""
    files = {each.path: each for each in entries if each.kind == "file"}

    def read(paths: Collection[str]) -> Mapping[str, str]:
        wanted = {
            path: files[path].hash for path in paths if path in files and (files[path].size or 0) <= MAX_READ
        }
        found = dict(read_blobs(account_id, {hash for hash in wanted.values() if hash}))
        return {path: found[hash].decode(errors="replace") for path, hash in wanted.items() if hash in found}

    return needs_of(files, read)


def needs_of(paths: Collection[str], read: Read) -> DetectedNeeds:
    """As `detect_needs`, for paths and a function that reads some of them."""
    found = DetectedNeeds()
    texts = read(["package.json", "Procfile", "prisma/schema.prisma", *WRANGLER])
    package = _package(texts.get("package.json"))
    sources = read(
        sorted(path for path in paths if path.endswith(SCRIPTS) and "node_modules/" not in path)[:MAX_SOURCES]
    )
    runtime = _best(_runtime_signals(paths), found)
    names = _dependencies(package)
    framework = _best(_framework_signals(paths, names), found)
    found.runtime, found.framework = runtime[0], framework[0]
    _find_databases(found, names, texts.get("prisma/schema.prisma", ""), sources)
    _find_edge(found, paths, names, sources)
    found.storage = any(name in names for name in STORAGE) or any(
        "r2_buckets" in texts.get(each, "") for each in WRANGLER
    )
    scripts = package.get("scripts")
    scripts = scripts if isinstance(scripts, dict) else {}
    found.build_command = "npm run build" if scripts.get("build") else None
    found.start_command = next((f"npm run {name}" for name in ("start", "serve") if scripts.get(name)), None)
    _read_procfile(found, texts.get("Procfile", ""))
    if any(path == "Dockerfile" or path.endswith("/Dockerfile") for path in paths):
        found.declined.append(
            "Dockerfile: this server builds no container images. Your own CI can, by webhook."
        )
    score = 0.6 * runtime[1] + 0.25 * framework[1] + (0.15 if found.runtime else 0)
    found.confidence = round(min(1.0, max(0.0, score)), 3)
    return found


def needs_json(found: DetectedNeeds) -> dict[str, Any]:
    """`requirements`, `suggested_resources` and `detection` as the contract has them, and what was declined."""
    suggestions: list[dict[str, Any]] = []
    if found.runtime not in (None, "static"):
        type = "compute:edge" if found.edge else "compute"
        suggestions.append(_suggestion(type, "cloudflare" if found.edge else "railway", "app"))
    for database, variable in found.databases:
        if database != "mysql":
            suggestions.append(_suggestion(f"database:{database}", "railway", database, envVar=variable))
    if found.storage:
        suggestions.append(_suggestion("storage:blob", "cloudflare", "storage"))
    return {
        "requirements": {
            "runtime": found.runtime,
            "runtimeVersion": None,
            "framework": found.framework,
            "databases": [{"type": type, "envVar": variable} for type, variable in found.databases],
            "isEdgeCompatible": found.edge,
            "needsStorage": found.storage,
            "buildCommand": found.build_command,
            "startCommand": found.start_command,
        },
        "suggested_resources": suggestions,
        "detection": {
            "confidence": found.confidence,
            "reasons": found.reasons,
            "signals": [each._asdict() for each in found.signals],
            "source": "rules",
        },
        "declined": found.declined,
    }


def _suggestion(type: str, provider: str, name: str, **more: str) -> dict[str, Any]:
    return {"type": type, "provider": provider, "provider_candidates": [provider], "name": name, **more}


def _runtime_signals(paths: Collection[str]) -> list[tuple[str, DetectionSignal]]:
    rules = [
        ("node", "package.json", 0.7, "package.json" in paths),
        ("node", "scripts", 0.6, any(path.endswith(SCRIPTS) for path in paths)),
        ("python", "python files", 0.8, any(path in paths for path in PYTHON_FILES)),
        ("go", "go.mod", 0.8, "go.mod" in paths or "go.sum" in paths),
        ("static", "index.html", 0.6, "index.html" in paths),
    ]
    return [
        (runtime, DetectionSignal(f"runtime:{runtime}:{what}", weight, f"{what} is there: {runtime}"))
        for runtime, what, weight, holds in rules
        if holds
    ]


def _framework_signals(paths: Collection[str], names: Collection[str]) -> list[tuple[str, DetectionSignal]]:
    found = []
    for framework, weight in FRAMEWORKS.items():
        packages = PACKAGES.get(framework, (framework,))
        config = framework not in NEEDS_CONFIG or any(
            path.startswith(f"{framework}.config.") for path in paths
        )
        if config and any(package in names for package in packages):
            signal = DetectionSignal(f"framework:{framework}", weight, f"{framework} is a dependency")
            found.append((framework, signal))
    return found


def _best(signals: list[tuple[str, DetectionSignal]], found: DetectedNeeds) -> tuple[str | None, float]:
    """The word with the greatest sum of weights, and its share of all."""
    sums: dict[str, float] = {}
    for word, signal in signals:
        sums[word] = sums.get(word, 0) + signal.confidence
        found.signals.append(signal)
    if not sums:
        return None, 0.0
    word = max(sums, key=lambda each: sums[each])
    return word, sums[word] / sum(sums.values())


def _find_databases(
    found: DetectedNeeds, names: Collection[str], schema: str, sources: Mapping[str, str]
) -> None:
    for database, packages in DATABASES.items():
        if (hit := next((each for each in packages if each in names), None)) is not None:
            found.signals.append(DetectionSignal(f"database:{database}", 0.7, f"{hit} is a dependency"))
            found.databases.append((database, VARIABLES[database]))
    if schema and (mysql := re.search(r'provider\s*=\s*"(mysql|postgresql)"', schema)):
        wanted = "mysql" if mysql[1] == "mysql" else "postgres"
        other = "postgres" if wanted == "mysql" else "mysql"
        found.databases = [each for each in found.databases if each[0] not in (wanted, other)]
        found.databases.insert(0, (wanted, VARIABLES[wanted]))
    if not found.databases:
        text = "\n".join(text for path, text in sources.items() if path.endswith((".ts", ".js", ".tsx")))
        for database in ("postgres", "redis"):
            if re.search(rf"\b{VARIABLES[database]}\b", text):
                found.databases.append((database, VARIABLES[database]))


def _find_edge(
    found: DetectedNeeds, paths: Collection[str], names: Collection[str], sources: Mapping[str, str]
) -> None:
    score = 0.8 if any(each in paths for each in WRANGLER) else 0.0
    score += 0.6 if any(each in names for each in EDGE) else 0
    score += 0.7 if any(path.rpartition("/")[2] in ("worker.js", "worker.ts") for path in paths) else 0
    score += 0.6 if any(_EDGE_HINT.search(text) for text in sources.values()) else 0
    score -= 0.6 if any(_NODE_ONLY.search(text) for text in sources.values()) else 0
    found.edge = score >= 0.6


def _read_procfile(found: DetectedNeeds, text: str) -> None:
    if match := re.search(r"^web:[ \t]*(\S.*)$", text[:10_000], re.MULTILINE):
        found.start_command = match[1].strip()[:2_000]
        found.signals.append(DetectionSignal("procfile", 0.7, "Procfile names a web process"))


def _package(text: str | None) -> dict[str, Any]:
    try:
        found = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _dependencies(package: Mapping[str, Any]) -> set[str]:
    groups = (package.get(name) for name in ("dependencies", "devDependencies"))
    return {name for group in groups if isinstance(group, dict) for name in group}
