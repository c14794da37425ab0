"""Request bodies of well-known clients: none is refused or loses a parameter, whichever provider serves the model."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.factories import Person
from tests.fakes.upstream import FakeUpstream

MODELS = (
    "gpt-4o-mini",
    "openai/gpt-5-mini",
    "claude-sonnet-4.5",
    "gemini-2.5-flash",
    "openrouter/deepseek/deepseek-chat-v3.1",
    "openai/house-model",
    "stoa/demo",
)
TEXT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {"name": "bash", "description": "Run", "parameters": {"type": "object", "properties": {}}},
}
CALLED = [
    *TEXT,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "bash", "arguments": "{}"}, "index": 0}
        ],
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
    },
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "done"}]},
]
PICTURE = "data:image/png;base64," + "iVBORw0KGgo" * 3000
SHOWN = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this? https://example.com/a.mp4"},
            {"type": "image_url", "image_url": {"url": PICTURE, "detail": "high"}},
        ],
    }
]
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "a", "strict": True, "schema": {"type": "object", "properties": {}}},
}

CLIENTS: dict[str, dict[str, Any]] = {
    "openai": {"messages": TEXT},
    "openai, all options": {
        "messages": TEXT,
        "temperature": 0.7,
        "top_p": 1,
        "n": 1,
        "stop": ["\n\n"],
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "logit_bias": {},
        "user": "u",
        "seed": 1,
        "store": False,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "tools": [TOOL],
        "tool_choice": "auto",
        "max_completion_tokens": 100,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "verbosity": "low",
    },
    "openai, parsed": {"messages": TEXT, "response_format": SCHEMA},
    "openai, a history of its own objects": {"messages": CALLED, "tools": [TOOL]},
    "openai, a picture": {"messages": SHOWN, "max_tokens": 300},
    "openai, a prediction": {"messages": TEXT, "prediction": {"type": "content", "content": "class A: pass"}},
    "vercel ai sdk": {
        "messages": CALLED,
        "temperature": 0,
        "tools": [TOOL],
        "tool_choice": "auto",
        "max_tokens": 32_000,
        "reasoning_effort": "medium",
        "top_k": None,
    },
    "vercel ai sdk, openrouter": {
        "messages": TEXT,
        "usage": {"include": True},
        "include_reasoning": True,
        "reasoning": {"effort": "low", "exclude": False},
        "plugins": [],
        "provider": {"order": ["a"], "allow_fallbacks": True},
    },
    "langchain": {
        "messages": TEXT,
        "temperature": 0.7,
        "n": 1,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "bash"}},
        "parallel_tool_calls": False,
    },
    "aider": {"messages": TEXT, "temperature": 0},
    "aider, thinking": {
        "messages": TEXT,
        "temperature": 1,
        "thinking": {"type": "enabled", "budget_tokens": 8000},
        "max_tokens": 16_000,
    },
    "opencode": {
        "messages": CALLED,
        "max_tokens": 32_000,
        "top_p": 1,
        "temperature": 0,
        "tools": [TOOL] * 12,
        "tool_choice": "auto",
        "prompt_cache_key": "ses_1",
        "reasoning_effort": "high",
        "thinking": {"type": "enabled", "budget_tokens": 16_000},
    },
    "cline": {
        "messages": [
            {
                "role": "system",
                "content": [{"type": "text", "text": "x" * 20_000, "cache_control": {"type": "ephemeral"}}],
            },
            {
                "role": "user",
                "content": [{"type": "text", "text": "y", "cache_control": {"type": "ephemeral"}}],
            },
        ],
        "temperature": 0,
        "transforms": ["middle-out"],
        "include_reasoning": True,
        "reasoning": {"max_tokens": 1024},
        "provider": {"sort": "throughput"},
    },
    "codebuff": {
        "messages": CALLED,
        "max_tokens": 32_000,
        "stop": ['"cb_easp"'],
        "codebuff_metadata": {"client_id": "c", "cost_mode": "normal"},
        "provider": {"allow_fallbacks": True},
        "tools": [TOOL],
        "tool_choice": "auto",
        "reasoning": {"enabled": True, "effort": "low"},
    },
    "open webui": {
        "messages": SHOWN,
        "temperature": 0.8,
        "max_tokens": None,
        "stop": None,
        "user": {"name": "A", "id": "1"},
        "metadata": None,
        "logit_bias": None,
        "frequency_penalty": None,
    },
    "instructor": {"messages": TEXT, "response_format": {"type": "json_object"}, "max_tokens": 1024.0},
    "pydantic-ai": {
        "messages": [{"role": "developer", "content": "x"}, *TEXT],
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": True,
        "n": 1,
    },
    "qwen and glm": {
        "messages": TEXT,
        "enable_thinking": False,
        "thinking_budget": 1000,
        "chat_template_kwargs": {"enable_thinking": False},
        "enable_search": False,
    },
    "gemini's openai examples": {
        "messages": TEXT,
        "extra_body": {"google": {"thinking_config": {"thinking_budget": 800, "include_thoughts": True}}},
    },
    "vllm": {"messages": TEXT, "min_p": 0.1, "top_k": -1, "repetition_penalty": 1.1, "guided_json": {}},
    "a voice note": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "input_audio", "input_audio": {"data": "UklGRg" * 100, "format": "wav"}}
                ],
            }
        ]
    },
    "a document": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "file",
                        "file": {
                            "filename": "a.pdf",
                            "file_data": "data:application/pdf;base64," + "JVBERi" * 2000,
                        },
                    }
                ],
            }
        ]
    },
}


NATIVE = {
    *("stream_options", "parallel_tool_calls", "reasoning_effort", "stop", "response_format", "user"),
    *("max_completion_tokens", "store", "logit_bias", "frequency_penalty", "presence_penalty"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("client", CLIENTS)
def test_what_clients_send_is_served(
    web: FlaskClient, fake: FakeUpstream, rich: Person, client: str, model: str, stream: bool
) -> None:
    body = {"model": model, **CLIENTS[client], "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    answer = web.post("/v1/chat/completions", json=body, headers=rich.headers)
    assert answer.status_code == 200, answer.data
    if stream:
        assert b"[DONE]" in answer.data
    if model != "stoa/demo":
        sent = fake.requests[0].body
        dropped = answer.headers.get("X-Stoa-Dropped", "").split(", ")
        missing = [key for key, value in body.items() if value is not None and key not in sent]
        # renamed keys are sent under the provider's name, and an 'n' of 1 is the default
        translated = {"codebuff_metadata", "max_tokens", "reasoning", "n"}
        if model.startswith("claude"):
            # in Anthropic's own format, or without effect
            translated |= NATIVE
        assert set(missing) <= {*dropped, *translated}
