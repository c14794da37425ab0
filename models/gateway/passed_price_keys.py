"""The keys of requests that are passed on whose value affects the price of a call, and the reader of each, by format."""

from collections.abc import Mapping
from typing import Any

from models.gateway.formats.rerank_meter import UNIT, search_units
from models.gateway.price_factors import FactorReader, KeyReader, free, limits, read_part, read_provider

EMBEDDINGS: Mapping[str, KeyReader] = {
    **dict.fromkeys(
        ("model", "encoding_format", "dimensions", "user", "input_type", "truncate", "task"), free
    ),
    "input": limits,
    "provider": read_provider,
}


def _classified(key: str, given: Any, reader: FactorReader) -> None:
    for index, part in enumerate(given if isinstance(given, list) else ()):
        if isinstance(part, dict):
            read_part(f"{key}[{index}]", part, reader)


MODERATIONS: Mapping[str, KeyReader] = {"model": free, "input": _classified}


def _documents(key: str, documents: Any, reader: FactorReader) -> None:
    reader.add_units(UNIT, search_units(documents, reader.call.body["query"]), key)


RERANK: Mapping[str, KeyReader] = {
    **dict.fromkeys(
        ("model", "top_n", "return_documents", "rank_fields", "max_tokens_per_doc", "truncation"), free
    ),
    "query": limits,
    "documents": _documents,
    "provider": read_provider,
}

PASSED_FORMATS: Mapping[str, Mapping[str, KeyReader]] = {
    "embeddings": EMBEDDINGS,
    "moderations": MODERATIONS,
    "rerank": RERANK,
}
