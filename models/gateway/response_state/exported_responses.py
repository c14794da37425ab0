"""What an export of a user's data holds of their kept responses."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Select, select

from models.core.personal_export import add_json_lines, keyset
from models.gateway.response_state.stored_response import StoredResponse

BATCH = 5
"""Rows read at a time: each may have many megabytes."""


def _responses(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        StoredResponse.id,
        StoredResponse.previous_id,
        StoredResponse.created_at,
        StoredResponse.input,
        StoredResponse.response,
    ).where(StoredResponse.account_id == user_id)
    return keyset(query, (StoredResponse.chain_id, StoredResponse.id), lambda _: BATCH)


add_json_lines(
    "responses.jsonl",
    "Responses of the Responses API that are kept, with their input.",
    {
        "id": "id of the response",
        "previous_id": "the response that it continues",
        "created_at": "when",
        "input": "the items of its request",
        "response": "the response",
    },
    _responses,
)
