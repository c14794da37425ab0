"""openai for Python: a non-streaming call, a stream with usage, a tool call."""

from openai import OpenAI

client = OpenAI()
assert "stoa/demo" in [model.id for model in client.models.list()]
LINE = [{"role": "user", "content": "Write a line about the stoa."}]

whole = client.chat.completions.create(model="stoa/demo", messages=LINE)
assert whole.choices[0].message.content, whole
assert whole.usage.completion_tokens, whole

text, usage = "", None
options = {"include_usage": True}
for chunk in client.chat.completions.create(
    model="stoa/demo", stream=True, stream_options=options, messages=LINE
):
    text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    usage = chunk.usage or usage
assert text, "the stream had no text"
assert usage.completion_tokens, usage

schema = {"type": "object", "properties": {"column": {"type": "integer"}}, "required": ["column"]}
measure = {"name": "measure", "description": "Measure a column", "parameters": schema}
called = client.chat.completions.create(
    model="stoa/demo",
    tools=[{"type": "function", "function": measure}],
    messages=[{"role": "user", "content": "Use the tool measure to measure column 3."}],
)
assert called.choices[0].message.tool_calls, called
