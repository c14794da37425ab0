"""pydantic-ai: an agent that uses a tool."""

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel

agent = Agent(OpenAIChatModel("stoa/demo"))
columns: list[int] = []


@agent.tool_plain
def measure(column: int) -> float:
    """Measure a column of the stoa."""
    columns.append(column)
    return 5.4


result = agent.run_sync("Use the tool measure to measure column 3.")
assert result.output, result
assert columns, result
