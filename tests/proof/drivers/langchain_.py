"""LangChain: a non-streaming call, a stream, a bound tool."""

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="stoa/demo", stream_usage=True, use_responses_api=False)
whole = model.invoke("Write a line about the stoa.")
assert whole.content, whole
assert whole.usage_metadata["output_tokens"], whole
assert "".join(part.content for part in model.stream("Write a line about the stoa."))


@tool
def measure(column: int) -> float:
    """Measure a column of the stoa."""
    return 5.4


answer = model.bind_tools([measure]).invoke("Use the tool measure to measure column 3.")
assert answer.tool_calls, answer
