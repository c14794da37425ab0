"""The keys of each format whose value affects the price of a call, and the reader of each.

`KEYS` has one table per provider for chat completions, `FORMATS` one for each other format, which means the same at every provider.
"""

from collections.abc import Mapping
from typing import Any

from models.gateway.passed_price_keys import PASSED_FORMATS
from models.gateway.price_factors import (
    TOOL_SEARCHES,
    FactorReader,
    KeyReader,
    free,
    limits,
    only,
    read_audio_output,
    read_cache_control,
    read_cache_options,
    read_messages,
    read_modalities,
    read_models,
    read_output_limit,
    read_part,
    read_plugins,
    read_prediction,
    read_provider,
    read_region,
    read_search_parameters,
    read_server_state,
    read_speed,
    read_thinking,
    read_tier,
    read_tools,
    read_web_search,
)


def _nested(key: str, value: Any, reader: FactorReader) -> None:
    """Keys in an object that some servers merge into the body."""
    for name, inner in value.items() if isinstance(value, dict) else ():
        if inner is None:
            continue
        if name in ("model", "messages") or (name == "n" and inner != 1):
            raise reader.refuse(f"{key}.{name}", "set it at the top level of the body.")
        read = read_output_limit if name in ("max_tokens", "max_completion_tokens") else CHAT.get(name)
        if read is not None:
            read(f"{key}.{name}", inner, reader)


CHAT: Mapping[str, KeyReader] = {
    **dict.fromkeys(
        (
            "model",
            "stream",
            "stream_options",
            "temperature",
            "top_p",
            "top_k",
            "top_a",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
            "seed",
            "stop",
            "logit_bias",
            "logprobs",
            "top_logprobs",
            "user",
            "metadata",
            "store",
            "safety_identifier",
            "moderation",
            "parallel_tool_calls",
            "tool_choice",
            "functions",
            "function_call",
            "response_format",
            "verbosity",
            "reasoning_effort",
            "prompt_cache_key",
            "prompt_cache_retention",
            "codebuff_metadata",
        ),
        free,
    ),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "n"), limits),
    "messages": read_messages,
    "tools": read_tools,
    "prediction": read_prediction,
    "modalities": read_modalities,
    "audio": read_audio_output,
    "service_tier": read_tier,
    "web_search_options": read_web_search,
    "prompt_cache_options": read_cache_options,
    "cache_control": read_cache_control,
    "reasoning": read_thinking,
    "thinking": read_thinking,
    "thinking_budget": read_thinking,
    **dict.fromkeys(("thinking_config", "thinkingConfig", "thinkingBudget"), read_thinking),
    **dict.fromkeys(
        ("extra_body", "google", "generation_config", "generationConfig", "options", "optional_params"),
        _nested,
    ),
    **dict.fromkeys(
        (
            *("max_output_tokens", "maxOutputTokens", "max_new_tokens", "max_tokens_to_sample", "max_length"),
            *("max_gen_len", "num_predict", "n_predict"),
        ),
        read_output_limit,
    ),
    "models": read_models,
    "fallbacks": read_models,
    "plugins": read_plugins,
    "preset": only(),
    "speed": read_speed,
    "inference_geo": read_region,
    **dict.fromkeys(
        (
            *("best_of", "candidate_count", "candidateCount", "num_return_sequences", "num_completions"),
            *("num_generations", "num_beams"),
        ),
        only(1),
    ),
    **dict.fromkeys(
        ("enable_search", "enable_web_search", "web_search", "enable_code_interpreter", "use_beam_search"),
        only(False),
    ),
    **dict.fromkeys(
        ("previous_response_id", "conversation", "cached_content", "cachedContent"), read_server_state
    ),
    "search_parameters": read_search_parameters,
    "mcp_servers": only([]),
    "container": only(),
}
"""Keys of OpenAI's chat completions and compatible APIs."""

OPENROUTER: Mapping[str, KeyReader] = {
    **CHAT,
    **dict.fromkeys(
        (
            "transforms",
            "route",
            "usage",
            "include_reasoning",
            "session_id",
            "trace",
            "debug",
            "image_config",
            "stop_server_tools_when",
        ),
        free,
    ),
    "provider": read_provider,
}


def _message_tools(key: str, tools: Any, reader: FactorReader) -> None:
    """Tools of the Messages API: those of the client, and those of the vendor whose price is known."""
    for index, tool in enumerate(tools):
        kind = str(tool.get("type") or "custom")
        if "cache_control" in tool:
            read_cache_control(key, tool["cache_control"], reader)
        if kind.startswith("web_search_"):
            uses = tool.get("max_uses")
            reader.search(0, uses if type(uses) is int and 0 < uses <= 100 else TOOL_SEARCHES)
            reader.add("input", reader.context_window, 0)
        elif kind.startswith("web_fetch_"):
            reader.add("input", reader.context_window, 0)
        elif kind != "custom" and not kind.startswith(_CLIENT_TOOLS):
            message = f"the provider charges for each use of {kind!r}, at an unknown price."
            raise reader.refuse(f"tools[{index}].type", message)


_CLIENT_TOOLS = ("bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_", "mcp_toolset")
"""Tools of Anthropic's that the client runs, or that cost only their tokens."""


def _system(key: str, value: Any, reader: FactorReader) -> None:
    for block in value if isinstance(value, list) else ():
        read_part(key, block, reader)


MESSAGES: Mapping[str, KeyReader] = {
    **dict.fromkeys(
        (
            "model",
            "stream",
            "temperature",
            "top_p",
            "top_k",
            "stop_sequences",
            "metadata",
            "tool_choice",
            "output_config",
            "output_format",
            "context_management",
        ),
        free,
    ),
    "max_tokens": limits,
    "messages": read_messages,
    "system": _system,
    "tools": _message_tools,
    "thinking": read_thinking,
    "cache_control": read_cache_control,
    "service_tier": read_tier,
    "speed": read_speed,
    "inference_geo": read_region,
    "fallbacks": read_models,
    "container": only(),
    "mcp_servers": only([]),
}
"""Keys of Anthropic's Messages API."""


def _items(key: str, items: Any, reader: FactorReader) -> None:
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if item.get("type") == "item_reference":
            raise reader.refuse(
                f"{key}[{index}]", "it refers to what is stored at the provider. Send the item instead."
            )
        for name in ("content", "output"):
            if isinstance(item.get(name), list):
                for part in item[name]:
                    read_part(f"{key}[{index}].{name}", part, reader)


def _response_tools(key: str, tools: Any, reader: FactorReader) -> None:
    """Tools of the Responses API: those of the client, and those of the vendor whose price is known."""
    for index, tool in enumerate(tools):
        kind = str(tool.get("type"))
        if kind.startswith("web_search"):
            reader.search(0, TOOL_SEARCHES)
            reader.add("input", reader.context_window, 0)
        elif kind not in _RESPONSE_TOOLS:
            message = f"the provider charges for each use of {kind!r}, at an unknown price."
            raise reader.refuse(f"{key}[{index}].type", message)


_RESPONSE_TOOLS = frozenset(
    (
        *("function", "custom", "namespace", "local_shell", "apply_patch", "tool_search"),
        *("computer", "computer_use_preview"),
    )
)
"""Tools that the client runs, or that cost only their tokens."""

RESPONSES: Mapping[str, KeyReader] = {
    **dict.fromkeys(
        (
            "model",
            "stream",
            "stream_options",
            "instructions",
            "temperature",
            "top_p",
            "top_logprobs",
            "text",
            "tool_choice",
            "parallel_tool_calls",
            "include",
            "store",
            "truncation",
            "metadata",
            "user",
            "safety_identifier",
            "prompt_cache_key",
            "prompt_cache_retention",
            "reasoning",
            "client_metadata",
            "context_management",
            "background",
        ),
        free,
    ),
    "max_output_tokens": limits,
    "input": _items,
    "tools": _response_tools,
    "service_tier": read_tier,
    "prompt_cache_options": read_cache_options,
    **dict.fromkeys(("previous_response_id", "conversation", "prompt"), read_server_state),
}
"""Keys of OpenAI's Responses API."""


def _contents(key: str, contents: Any, reader: FactorReader) -> None:
    for index, content in enumerate(contents):
        for part in content.get("parts") or ():
            name = f"{key}[{index}].parts"
            file = part.get("fileData")
            if isinstance(file, dict) and "generativelanguage.googleapis.com" in str(file.get("fileUri")):
                raise reader.refuse(
                    f"{name}.fileData",
                    "it refers to a file in the account of the server. Send the data instead.",
                )
            read_part(name, part, reader)


def _gemini_tools(key: str, tools: Any, reader: FactorReader) -> None:
    for index, tool in enumerate(tools):
        for kind, value in tool.items():
            if kind == "urlContext" and value is not None:
                reader.add("input", reader.context_window, 0)
            elif kind not in ("functionDeclarations", "codeExecution") and value is not None:
                message = f"the provider charges for each use of {kind!r}, at an unknown price."
                raise reader.refuse(f"{key}[{index}].{kind}", message)


def _generation_config(key: str, config: Any, reader: FactorReader) -> None:
    for name, value in config.items():
        if value is None:
            continue
        if name == "responseModalities":
            kinds = value if isinstance(value, list) else [value]
            read_modalities(f"{key}.{name}", [str(kind).lower() for kind in kinds], reader)
        elif name == "speechConfig":
            read_audio_output(f"{key}.{name}", value, reader)
        elif name == "thinkingConfig":
            read_thinking(f"{key}.{name}", value, reader)


GEMINI: Mapping[str, KeyReader] = {
    **dict.fromkeys(("model", "systemInstruction", "toolConfig", "safetySettings", "labels"), free),
    "contents": _contents,
    "tools": _gemini_tools,
    "generationConfig": _generation_config,
    "cachedContent": read_server_state,
}
"""Keys of Google's Gemini API."""

DEMO: Mapping[str, KeyReader] = dict.fromkeys(CHAT, free)
"""The built-in demo model reads only text and has one price."""

COMPLETIONS: Mapping[str, KeyReader] = {
    **{key: read for key, read in CHAT.items() if key not in ("messages", "tools", "modalities", "audio")},
    **dict.fromkeys(("prompt", "suffix"), limits),
    "echo": free,
    "provider": read_provider,
}
"""Keys of OpenAI's older Completions API."""

FORMATS: Mapping[str, Mapping[str, KeyReader]] = {
    "messages": MESSAGES,
    "responses": RESPONSES,
    "compaction": RESPONSES,
    "gemini": GEMINI,
    "web_search": dict.fromkeys(("query", "depth"), free),
    "docs_search": dict.fromkeys(("query", "topic", "max_tokens"), free),
    **PASSED_FORMATS,
    "completions": COMPLETIONS,
}
"""Keys of the formats that mean the same at every provider."""

KEYS: Mapping[str, Mapping[str, KeyReader]] = {
    "openai": CHAT,
    "anthropic": CHAT,
    "gemini": CHAT,
    "openrouter": OPENROUTER,
    "stoa": DEMO,
}
