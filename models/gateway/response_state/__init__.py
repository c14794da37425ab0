"""Kept responses of the Responses API: what `previous_response_id` and `item_reference` refer to."""

from models.gateway.response_state import exported_responses
from models.gateway.response_state.stored_response import ResponseStorage, StoredResponse

__all__ = ["ResponseStorage", "StoredResponse", "exported_responses"]
