"""The formats that are not conversations: passed on as they are to providers that have them."""

from collections.abc import Mapping

PATHS: Mapping[str, str] = {
    "embeddings": "/embeddings",
    "completions": "/completions",
    "moderations": "/moderations",
    "rerank": "/rerank",
    "images": "/images/generations",
    "image_edits": "/images/edits",
    "speech": "/audio/speech",
    "transcriptions": "/audio/transcriptions",
    "translations": "/audio/translations",
}
"""Where providers take requests of each format, below their base URL, as clients do below `/v1`."""

KINDS: Mapping[str, str] = {
    "embeddings": "embedding",
    "completions": "completion",
    "moderations": "moderation",
    "rerank": "rerank",
    "images": "image",
    "image_edits": "image",
    "speech": "speech",
    "transcriptions": "transcription",
    "translations": "transcription",
}
"""The kind of the models that each format calls (`models/gateway/model_names.py`)."""

FORMAT_OF_KIND: Mapping[str, str] = {kind: name for name, kind in reversed(tuple(KINDS.items()))}
"""The first format of each kind."""

PASSED = tuple(PATHS)
"""The names of all these formats."""
