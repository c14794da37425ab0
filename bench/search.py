"""Search in the documents of an account, of 50,000 chunks, and the parser of PDF files."""

import argparse
import hashlib
import io
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import accumulate
from pathlib import Path

import orjson
import pypdfium2
from flask import Flask
from fpdf import FPDF

from bench import stoa
from bench.load import quantile
from bench.stoa import Stoa
from models.core import postgres
from models.core.db import db
from models.index.chunking import TextChunk
from models.index.document_sources import write_source
from models.index.documents import Document
from models.index.parser_runner import run_parser
from models.index.vectors import write_vectors

CHUNKS, PER_DOCUMENT, WORDS = 50_000, 100, 120
VOCABULARY = 30_000
QUERIES = 100
PAGES = 500
BUDGET, PAGE_BUDGET = 60, 10
"""Milliseconds: p95 of a search, and a page of a PDF."""
KEY = "cb-pat-bench-search"
USER = "bench-search"

Line = tuple[str, str, str, str, bool]


@dataclass(slots=True)
class SearchResult:
    """What was measured, in seconds."""

    chunks: int = 0
    filled: float = 0
    health: list[float] = field(default_factory=list)
    searches: dict[str, list[float]] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    page: float = 0


def measure(folder: Path, upstream_port: int, chunks: int = CHUNKS, queries: int = QUERIES) -> SearchResult:
    """Start a server, fill it with documents, and search them by the API."""
    result = SearchResult(chunks)
    result.page = _pdf()
    with stoa.running(folder / "search", upstream_port, {"STOA_DEMO": "0"}) as server:
        began = time.monotonic()
        words = fill(server, chunks)
        result.filled = time.monotonic() - began
        _search(server, result, words, queries)
    return result


def fill(server: Stoa, chunks: int) -> list[str]:
    """Documents of random words, frequent and rare as those of a language; returns the words, most frequent first."""
    chance = random.Random(7)
    syllables = [first + second for first in "bcdfghklmnprstvw" for second in "aeiou"]
    words = list(dict.fromkeys("".join(chance.choices(syllables, k=4)) for _ in range(VOCABULARY)))
    ranks = list(accumulate(1 / (rank + 3) for rank in range(len(words))))
    with server.sql() as connection:
        connection.execute('INSERT INTO "user" (id, email) VALUES (%s, %s)', (USER, "search@example.org"))
        connection.execute(
            'INSERT INTO session ("sessionToken", "userId", type, expires, token_hint)'
            " VALUES (%s, %s, 'pat', now() + interval '1 day', 'bench')",
            (hashlib.sha256(KEY.encode()).hexdigest(), USER),
        )
        connection.execute("DROP INDEX idx_chunk_vector_embedding")
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = (
        f"postgresql+psycopg://{postgres.SUPERUSER}@/{postgres.DATABASE}?host={server.socket_dir}"
    )
    db.init_app(app)
    with app.app_context():
        documents = chunks // PER_DOCUMENT
        for number in range(documents):
            texts = [" ".join(chance.choices(words, cum_weights=ranks, k=WORDS)) for _ in range(PER_DOCUMENT)]
            _document(number, texts)
            db.session.commit()
        db.engine.dispose()
    with server.sql() as connection:
        connection.execute("SET maintenance_work_mem = '512MB'")
        connection.execute(
            "CREATE INDEX idx_chunk_vector_embedding ON chunk_vector"
            " USING hnsw (embedding extensions.halfvec_cosine_ops)"
        )
        connection.execute("VACUUM ANALYZE")
    return words


def _document(number: int, texts: list[str]) -> None:
    chunks, at = [], 0
    for page, text in enumerate(texts, 1):
        chunks.append(TextChunk(at, at + len(text), page, page, 300, text))
        at += len(text)
    report = {"unit": "page", "parts": len(texts)}
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    starts = [chunk.start for chunk in chunks]
    source = write_source(USER, sha256, unit="page", part_starts=starts, chunks=chunks, report=report)
    write_vectors(source.id, texts)
    db.session.add(
        Document(
            id=f"file-{uuid.uuid4().hex}", account_id=USER, user_id=USER, scope_kind="account", scope_id=USER,
            name=f"document {number}.pdf", media_type="application/pdf", bytes=at, sha256=sha256,
            state="ready", source_id=source.id, report=report,
        )
    )  # fmt: skip


def _search(server: Stoa, result: SearchResult, words: list[str], queries: int) -> None:
    chance = random.Random(11)
    kinds: dict[str, Callable[[], list[str]]] = {
        "two rare words": lambda: chance.choices(words[2_000:], k=2),
        "a sentence": lambda: [*chance.choices(words[:100], k=5), *chance.choices(words[100:], k=4)],
        "frequent words": lambda: chance.choices(words[:20], k=2),
        "words that are not there": lambda: [chance.choice(words)[:-1] + "xq" for _ in range(3)],
    }
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    for name, query in kinds.items():
        times = result.searches.setdefault(name, [])
        for number in range(queries + 10):
            body = orjson.dumps({"query": " ".join(query()), "top_k": 5})
            began = time.perf_counter()
            connection.request("POST", "/api/v1/files/search", body, headers)
            answer = connection.getresponse()
            found = orjson.loads(answer.read())
            took = time.perf_counter() - began
            if answer.status != 200:
                raise RuntimeError(f"search answered {answer.status}: {found}")
            if number >= 10:
                times.append(took)
                result.found[name] = result.found.get(name, 0) + bool(found["data"])
            began = time.perf_counter()
            connection.request("GET", "/api/healthz")
            connection.getresponse().read()
            result.health.append(time.perf_counter() - began)


def _pdf() -> float:
    """Seconds that a page takes, with the start of the process."""
    written = FPDF()
    written.set_font("helvetica", size=10)
    for page in range(10):
        written.add_page()
        for line in range(50):
            text = f"{page}.{line} The committee discussed pipes of copper and lead, and their price."
            written.cell(0, 5, text, new_x="LMARGIN", new_y="NEXT")
    some, whole = pypdfium2.PdfDocument(bytes(written.output())), pypdfium2.PdfDocument.new()
    for _ in range(PAGES // 10):
        whole.import_pages(some)
    stream = io.BytesIO()
    whole.save(stream)
    data = stream.getvalue()
    took = []
    for _ in range(3):
        began = time.perf_counter()
        output = run_parser("pdf", data)
        took.append((time.perf_counter() - began) / PAGES)
        if len(output.parts) != PAGES:
            raise RuntimeError("the PDF was not read")
    return min(took)


def lines(result: SearchResult) -> Iterator[Line]:
    """Rows of the table."""
    health = quantile(result.health, 0.5) * 1000
    for name, times in result.searches.items():
        p95 = quantile(times, 0.95) * 1000
        measured = f"p95 {p95:.1f} ms, p50 {quantile(times, 0.5) * 1000:.1f} (health {health:.1f})"
        yield f"search of {result.chunks:,} chunks: {name}", measured, "", f"under {BUDGET} ms", p95 < BUDGET
    page = result.page * 1000
    yield "page of a PDF", f"{page:.1f} ms", "", f"at most {PAGE_BUDGET} ms", page <= PAGE_BUDGET


def notes(result: SearchResult) -> list[str]:
    """Notes below the table."""
    found = ", ".join(f"{name} {count}" for name, count in result.found.items())
    return [
        f"{result.chunks:,} chunks of {WORDS} words, filled in {result.filled:.0f} s; queries with hits: {found}"
    ]


def main() -> None:
    """`python -m bench.search 50000`: fill a server, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__)
    parser.add_argument("chunks", type=int, nargs="?", default=CHUNKS)
    parser.add_argument("--queries", type=int, default=QUERIES)
    options = parser.parse_args()
    folder = Path(os.environ.get("STOA_BENCH_DIR") or Path(tempfile.gettempdir(), "stoa-bench"))
    folder.mkdir(parents=True, exist_ok=True)
    result = measure(folder, 9, options.chunks, options.queries)
    for name, measured, ratio, target, met in lines(result):
        print(f"{name:<56}{measured:<52}{ratio:>7}  {target:<28}{'' if met else 'NOT MET'}")
    print(*notes(result), sep="\n")


if __name__ == "__main__":
    main()
