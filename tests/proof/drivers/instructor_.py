"""instructor: a response parsed into a pydantic model."""

import instructor
from openai import OpenAI
from pydantic import BaseModel


class Column(BaseModel):
    name: str
    height: int


column = instructor.from_openai(OpenAI()).chat.completions.create(
    model="stoa/demo",
    response_model=Column,
    messages=[{"role": "user", "content": "A column of five metres."}],
)
assert isinstance(column, Column)
