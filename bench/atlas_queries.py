"""A judged set for the search of maps: questions about rooms of our own source, which files answer them, and how good an order of files is.

A file that answers has gain 3, one that helps 1. The figure is NDCG@10, the mean of all questions."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("models/core", "models/index", "models/ledger")
AT = 10
ANSWERS, HELPS = 3, 1

_JUDGED = """
where are secrets encrypted at rest | core/sealing |
SealBroken | core/sealing |
retry a failed job with backoff | core/job_queue | core/job_failures core/jobs
enqueue_once | core/job_queue | core/jobs
run work in a thread so that gevent is not blocked | core/files | core/cooperative core/pool
block requests to private networks | core/outgoing | core/safe_fetch
download a picture from a user's url | core/safe_fetch | core/outgoing
mask secrets in the log | core/redaction |
start the embedded postgres | core/postgres |
FairSemaphore | core/pool |
a form that is sent twice acts once | core/form_submissions |
zip archive streamed in constant memory | core/zip_stream | core/personal_export
export my personal data | core/personal_export | index/exported_documents
decompress gzip and brotli bodies | core/decompression |
send an e-mail by smtp | core/mail |
opentelemetry spans | core/telemetry |
read settings from environment variables | core/settings |
append only log of who did what | core/audit_log | core/audit_trail
bm25 | index/chunk_ranking | index/query_forms
reciprocal rank fusion of words and vectors | index/chunk_ranking | index/document_search
hash words to a vector without a model | index/embedders | index/vectors
nearest neighbours with pgvector | index/vectors | index/embedders
split text into chunks at paragraphs | index/chunking | index/document_parsing
does a quote really stand in the document | index/citations | index/document_text
crash of the parser process | index/parser_runner | index/document_parsing
detect the type of an uploaded file | index/document_types | index/documents
who may read the documents of a scope | index/scope_access | index/documents
delete files that no document uses | index/document_purge | index/documents
split identifiers into words | index/terms | index/query_forms
quota renewal every month | ledger/quota |
batch concurrent settlements into one commit | ledger/group_commit | ledger/holds
GroupCommit | ledger/group_commit | ledger/holds
merkle proof of an entry | ledger/heads | ledger/statement_check
verify a statement offline | ledger/statement_check | ledger/heads
same idempotency key charged once | ledger/idempotent_calls |
which account pays for a run | ledger/payers | ledger/run_budgets
cap what a run and its children spend | ledger/run_budgets | ledger/budgets ledger/budget_tables
convert dollars to credits exactly | ledger/credits |
stop all calls of an account | ledger/account_stops |
hourly usage totals for charts | ledger/rollup | ledger/latency
latency histogram quantiles | ledger/latency |
strip nul bytes and lone surrogates | ledger/sanitizing |
recompute every total and list differences | ledger/ledger_proof |
grant credits | ledger/credit_operations | ledger/quota ledger/ledger
"""


def judged() -> dict[str, dict[str, int]]:
    """The gain of each file that counts, by question."""
    found = {}
    for line in _JUDGED.strip().splitlines():
        query, answers, helps = (part.strip() for part in line.split("|"))
        gains = dict.fromkeys(answers.split(), ANSWERS) | dict.fromkeys(helps.split(), HELPS)
        found[query] = {f"models/{path}.py": gain for path, gain in gains.items()}
    return found


def sources() -> dict[str, str]:
    """The files that are searched, by path."""
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for room in ROOMS
        for path in sorted((ROOT / room).glob("*.py"))
    }


def ndcg(found: Sequence[str], gains: Mapping[str, int]) -> float:
    """How good an order of paths is, from 0 to 1: gains count less the later they come, as a share of the best order."""
    return _gain([gains.get(path, 0) for path in found]) / _gain(sorted(gains.values(), reverse=True))


def mean_ndcg(search: Callable[[str], Sequence[str]]) -> float:
    """The mean of all questions."""
    scores = [ndcg(search(query), gains) for query, gains in judged().items()]
    return sum(scores) / len(scores)


def plain_search(files: Mapping[str, str], query: str) -> list[str]:
    """What a search for text finds, as editors do it: files with most of the words first, then those that have them most often."""
    words = set(re.findall(r"\w+", query.casefold()))
    texts = {path: f"{path}\n{text}".casefold() for path, text in files.items()}
    scores = {
        path: (sum(word in text for word in words), sum(text.count(word) for word in words))
        for path, text in texts.items()
    }
    return sorted(
        (path for path in files if scores[path][0]), key=lambda path: (scores[path], path), reverse=True
    )


def _gain(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains[:AT]))
