"""LlamaIndex: a chat and a streamed chat."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    model="stoa/demo",
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    is_chat_model=True,
    is_function_calling_model=True,
)
line = [ChatMessage(role="user", content="Write a line about the stoa.")]
assert model.chat(line).message.content
assert "".join(part.delta or "" for part in model.stream_chat(line))
