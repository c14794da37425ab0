"""The keys of requests that are passed on whose value affects the price of a call, and the reader of each, by format."""

from collections.abc import Mapping

from models.gateway.price_factors import KeyReader, free, limits, read_provider

EMBEDDINGS: Mapping[str, KeyReader] = {
    **dict.fromkeys(
        ("model", "encoding_format", "dimensions", "user", "input_type", "truncate", "task"), free
    ),
    "input": limits,
    "provider": read_provider,
}

PASSED_FORMATS: Mapping[str, Mapping[str, KeyReader]] = {"embeddings": EMBEDDINGS}
