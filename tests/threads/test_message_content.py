"""What a model wrote fits into a message, whatever it wrote."""

import orjson
import pytest

from models.threads.message_content import MAX_CONTENT_BYTES, answer_parts, check_storable


@pytest.mark.parametrize("text", ["a", "\n", '"', "\x00", "😀", "é\x00"])
@pytest.mark.parametrize("thinking", ["", "b", "\n", "😀"])
def test_a_long_answer_is_cut_to_what_a_message_may_have(text: str, thinking: str) -> None:
    parts = answer_parts(thinking * 1_200_000, text * 1_200_000)
    assert check_storable(parts, "content") <= MAX_CONTENT_BYTES
    assert "\x00" not in orjson.dumps(parts).decode()
    assert answer_parts("why", "yes") == [
        {"type": "reasoning", "text": "why"},
        {"type": "text", "text": "yes"},
    ]
