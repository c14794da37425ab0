"""Ranking of documents (`/v1/rerank`), in the format of Cohere, Jina and OpenRouter."""

from typing import Any

from models.accounts.scopes import EMBEDDINGS
from models.gateway import tokens
from models.gateway.chat_format import BadCall, Call
from models.gateway.chat_format.chat_parsing import BYTES_PER_TOKEN, strings, whole_number
from models.gateway.dialects.dialect import IncomingRequest
from models.gateway.dialects.passing import PassingDialect
from models.gateway.formats.body_checks import object_of
from models.gateway.formats.passed_parsing import read_model, read_text, text_size
from models.gateway.formats.rerank_meter import UNIT, search_units

MAX_DOCUMENTS = 10_000
MAX_QUERY = 100_000


class RerankDialect(PassingDialect):
    """A query and documents, which come back by relevance."""

    door = "rerank"
    scope = EMBEDDINGS

    def parse(self, received: IncomingRequest) -> Call:
        body = object_of(received.body)
        model = read_model(body)
        query = read_text(body, "query", MAX_QUERY)
        documents = _check(body.get("documents"))
        whole_number(body, "top_n", MAX_DOCUMENTS)
        # the query is read with each document
        size = text_size(list(strings(documents))) + text_size([query]) * len(documents)
        return Call(
            model=model,
            stream=False,
            n=1,
            max_output=0,
            input_tokens=size // BYTES_PER_TOKEN + 1,
            text_bytes=size,
            body=body,
            format="rerank",
            inputs=len(documents),
        )

    def inputs(self, call: Call) -> list[str]:
        return [call.body["query"], *("\n".join(strings(each)) for each in call.body["documents"])]

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        documents, query = call.body["documents"], call.body["query"]
        text = tokens.count("\n".join(strings(documents))) + tokens.count(query) * len(documents)
        return text, {UNIT: search_units(documents, query)}


def _check(documents: Any) -> list[Any]:
    if not isinstance(documents, list) or not documents:
        raise BadCall("'documents' must be a list of texts or objects.", param="documents")
    if len(documents) > MAX_DOCUMENTS:
        message = f"'documents' has {len(documents):,} items; at most {MAX_DOCUMENTS:,} are allowed."
        raise BadCall(message, param="documents")
    for index, document in enumerate(documents):
        if not isinstance(document, str | dict):
            raise BadCall(f"'documents[{index}]' must be a text or an object.", param=f"documents[{index}]")
    return documents
