"""Vendors' response formats in both APIs, whole and streamed: what is billed, and what clients read."""

from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient
from openai._streaming import SSEDecoder
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts

DOORS = {"openai": "/v1/chat/completions", "codebuff": "/api/v1/chat/completions"}
TEXT = "One two three."


def use(prompt: Any, completion: Any, total: Any = None, **more: Any) -> dict[str, Any]:
    total = prompt + completion if total is None else total
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}


def piece(delta: Any, reason: Any = None, /, **more: Any) -> dict[str, Any]:
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}  # fmt: skip


def bare(**more: Any) -> dict[str, Any]:
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], **more}


def whole(usage: Any = None, /, **more: Any) -> dict[str, Any]:
    answer = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}], **more}  # fmt: skip
    return answer if usage is None else {**answer, "usage": usage}


ROLE, WORDS, STOP = piece({"role": "assistant", "content": ""}), piece({"content": TEXT}), piece({}, "stop")
DONE = "[DONE]"
PLAIN = use(100, 20)
FILTERED = {"hate": {"filtered": False, "severity": "safe"}}

# name: (the events of a stream or a whole body, what is billed as (uncached, cache read, output, reasoning))
VENDORS: dict[str, tuple[Any, tuple[int, int, int, int]]] = {
    "openai": ([ROLE, WORDS, STOP, bare(usage=PLAIN), DONE], (100, 0, 20, 0)),
    "openai, obfuscated": ([{**ROLE, "usage": None, "obfuscation": "x1"}, {**WORDS, "usage": None, "obfuscation": "y"},
                            {**STOP, "usage": None}, bare(usage=PLAIN, obfuscation=""), DONE], (100, 0, 20, 0)),
    "azure, filters first": ([{"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": [
        {"prompt_index": 0, "content_filter_results": FILTERED}]}, ROLE, WORDS, STOP, bare(usage=PLAIN), DONE],
        (100, 0, 20, 0)),
    "azure, filters later": ([ROLE, WORDS, STOP, {"id": "", "object": "", "created": 0, "model": "", "choices": [
        {"index": 0, "finish_reason": None, "content_filter_results": FILTERED,
         "content_filter_offsets": {"check_offset": 1, "start_offset": 1, "end_offset": 9}}]}, bare(usage=PLAIN), DONE],
        (100, 0, 20, 0)),
    "azure, whole": (whole(use(100, 20, **{"prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 64}}),
                           prompt_filter_results=[]), (36, 64, 20, 0)),
    "vllm": ([{**ROLE, "usage": use(100, 0)}, {**WORDS, "usage": use(100, 19)}, {**STOP, "usage": use(100, 20)},
              bare(usage=PLAIN), DONE], (100, 0, 20, 0)),
    "vllm, cached": ([ROLE, WORDS, STOP, bare(usage=use(100, 20, prompt_tokens_details={"cached_tokens": 96})), DONE],
                     (4, 96, 20, 0)),
    "sglang": ([ROLE, WORDS, {**STOP, "matched_stop": 2}, bare(usage=use(100, 20, prompt_tokens_details=None,
                reasoning_tokens=0)), DONE], (100, 0, 20, 0)),
    "sglang, thoughts": (whole(use(100, 20, reasoning_tokens=15)), (100, 0, 20, 15)),
    "lm studio": ([ROLE, WORDS, STOP, bare(usage=PLAIN, stats={}), DONE], (100, 0, 20, 0)),
    "lm studio, whole": (whole(PLAIN, stats={"draft_model": ""}, system_fingerprint="m"), (100, 0, 20, 0)),
    "ollama": ([ROLE, WORDS, {**STOP, "usage": PLAIN}, DONE], (100, 0, 20, 0)),
    "ollama, native figures": ([ROLE, WORDS, {**STOP, "done": True, "prompt_eval_count": 100, "eval_count": 20}],
                               (100, 0, 20, 0)),
    "ollama, native figures, whole": (whole(prompt_eval_count=100, eval_count=20), (100, 0, 20, 0)),
    "llama.cpp": ([ROLE, WORDS, STOP, bare(usage=PLAIN, timings={"cache_n": 40, "prompt_n": 60, "predicted_n": 20}), DONE],
                  (100, 0, 20, 0)),
    "llama.cpp, timings alone": ([ROLE, WORDS, {**STOP, "timings": {"cache_n": 40, "prompt_n": 60, "prompt_ms": 9.5,
                                  "predicted_n": 20, "predicted_per_second": 70.1}}, DONE], (60, 40, 20, 0)),
    "llama.cpp, timings all along": ([{**piece({"content": word}), "timings": {"cache_n": 0, "prompt_n": 100,
        "predicted_n": at}} for at, word in enumerate(("One ", "two ", "three."), 1)]
        + [{**STOP, "timings": {"cache_n": 0, "prompt_n": 100, "predicted_n": 20}}, DONE], (100, 0, 20, 0)),
    "groq": ([{**ROLE, "x_groq": {"id": "req"}}, WORDS, {**STOP, "x_groq": {"id": "req", "usage": use(100, 20,
              queue_time=0.1, total_time=0.2)}}, DONE], (100, 0, 20, 0)),
    "groq, both": ([ROLE, WORDS, {**STOP, "x_groq": {"id": "req", "usage": PLAIN}}, bare(usage=PLAIN), DONE],
                   (100, 0, 20, 0)),
    "groq, whole": (whole(use(100, 20, queue_time=0.1), x_groq={"id": "r"}, usage_breakdown=None), (100, 0, 20, 0)),
    "mistral": ([piece({"role": "assistant", "content": ""}), WORDS, {**STOP, "usage": PLAIN}, DONE], (100, 0, 20, 0)),
    "mistral, magistral": (whole(PLAIN, choices=[{"index": 0, "finish_reason": "stop", "message": {"role": "assistant",
        "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": TEXT}]}}]),
        (100, 0, 20, 0)),
    "deepseek": ([ROLE, WORDS, {**STOP, "usage": use(100, 20, prompt_tokens_details={"cached_tokens": 64},
        prompt_cache_hit_tokens=64, prompt_cache_miss_tokens=36)}, DONE], (36, 64, 20, 0)),
    "deepseek, thinking": ([b": keep-alive\n\n", piece({"role": "assistant", "content": None, "reasoning_content": "Hm."}),
        WORDS, {**STOP, "usage": use(100, 20, completion_tokens_details={"reasoning_tokens": 9},
        prompt_cache_hit_tokens=0, prompt_cache_miss_tokens=100)}, DONE], (100, 0, 20, 9)),
    "moonshot": ([ROLE, WORDS, {**STOP, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop",
        "usage": use(100, 20, cached_tokens=60)}]}, DONE], (40, 60, 20, 0)),
    "dashscope, usage all along": ([{**ROLE, "usage": use(100, 1)}, {**WORDS, "usage": use(100, 12)},
        {**STOP, "usage": PLAIN}, DONE], (100, 0, 20, 0)),
    "dashscope, nulls": ([{**ROLE, "usage": None}, {**WORDS, "usage": None, "system_fingerprint": None}, {**STOP, "usage": None},
        bare(usage=use(100, 20, prompt_tokens_details={"cached_tokens": 0}, completion_tokens_details={
            "reasoning_tokens": 4, "text_tokens": 16})), DONE], (100, 0, 20, 4)),
    "dashscope, null in words": ([piece({"role": "assistant", "content": ""}, "null"), piece({"content": TEXT}, "null"),
        {**STOP, "usage": {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}}, DONE], (100, 0, 20, 0)),
    "zhipu": ([ROLE, WORDS, {**STOP, "usage": use(100, 20, prompt_tokens_details={"cached_tokens": 30})}, DONE],
              (70, 30, 20, 0)),
    "zhipu, searched": (whole(PLAIN, request_id="r", web_search=[{"title": "t", "link": "l"}]), (100, 0, 20, 0)),
    "minimax": ([ROLE, WORDS, STOP, {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}],
        "usage": {"total_tokens": 120, "prompt_tokens": 100, "completion_tokens": 20, "total_characters": 0},
        "input_sensitive": False, "base_resp": {"status_code": 0, "status_msg": ""}}, DONE], (100, 0, 20, 0)),
    "minimax, whole": (whole(use(100, 20, total_characters=0), base_resp={"status_code": 0, "status_msg": ""}),
                       (100, 0, 20, 0)),
    "xai": ([{**ROLE, "usage": use(100, 0)}, WORDS, STOP, bare(usage=use(100, 20, 150, completion_tokens_details={
        "reasoning_tokens": 30}, prompt_tokens_details={"text_tokens": 100, "cached_tokens": 40}, num_sources_used=0)), DONE],
        (60, 40, 50, 30)),
    "xai, whole": (whole(use(100, 20, 150, completion_tokens_details={"reasoning_tokens": 30}), citations=None),
                   (100, 0, 50, 30)),
    "cohere": ([ROLE, WORDS, STOP, bare(usage=PLAIN, meta={"billed_units": {"input_tokens": 90, "output_tokens": 20}}), DONE],
               (100, 0, 20, 0)),
    "cohere, its own": (whole(meta={"api_version": {"version": "2"}, "billed_units": {"input_tokens": 100,
        "output_tokens": 20}, "tokens": {"input_tokens": 166, "output_tokens": 20}}), (100, 0, 20, 0)),
    "cohere, version two": ([ROLE, WORDS, {**STOP, "usage": {"billed_units": {"input_tokens": 100.0, "output_tokens": 20.0},
        "tokens": {"input_tokens": 166.0, "output_tokens": 20.0}}}, DONE], (100, 0, 20, 0)),
    "perplexity": ([{**ROLE, "citations": ["u"], "usage": use(100, 0)}, {**WORDS, "choices": [{"index": 0, "delta": {
        "content": TEXT}, "message": {"role": "assistant", "content": TEXT}, "finish_reason": None}], "usage": use(100, 10)},
        {**STOP, "usage": use(100, 20, search_context_size="low", cost={"input_tokens_cost": 0.1, "total_cost": 7.5})}],
        (100, 0, 20, 0)),
    "together": ([ROLE, WORDS, {**STOP, "usage": PLAIN}, DONE], (100, 0, 20, 0)),
    "together, text beside": ([{**piece({"role": "assistant", "content": TEXT}), "choices": [{"index": 0, "text": TEXT,
        "logprobs": None, "delta": {"token_id": 1, "role": "assistant", "content": TEXT}, "finish_reason": None}]},
        {**STOP, "usage": PLAIN}, DONE], (100, 0, 20, 0)),
    "fireworks": ([ROLE, WORDS, {**STOP, "usage": use(100, 20, prompt_tokens_details=None), "perf_metrics": None}, DONE],
                  (100, 0, 20, 0)),
    "deepinfra": ([ROLE, WORDS, STOP, bare(usage=use(100, 20, estimated_cost=0.00021)), DONE], (100, 0, 20, 0)),
    "nebius, a cost": (whole(use(100, 20, cost=9.5)), (100, 0, 20, 0)),
    "cerebras": ([ROLE, WORDS, {**STOP, "usage": PLAIN, "time_info": {"queue_time": 0.1}}, DONE], (100, 0, 20, 0)),
    "sambanova": ([ROLE, WORDS, STOP, bare(usage=use(100, 20, is_last_response=True, acceptance_rate=3.2)), DONE], (100, 0, 20, 0)),
    "hugging face": ([WORDS, STOP, bare(usage=PLAIN, system_fingerprint="3.0.1-sha"), DONE], (100, 0, 20, 0)),
    "hugging face, no done": ([b":\n", WORDS, {**STOP, "usage": PLAIN}], (100, 0, 20, 0)),
    "litellm, bedrock": ([ROLE, WORDS, STOP, bare(usage=use(160, 20, 180, cache_read_input_tokens=100,
        cache_creation_input_tokens=50, prompt_tokens_details={"cached_tokens": 100})), DONE], (10, 100, 20, 0)),
    "litellm, anthropic whole": (whole(use(160, 20, 180, cache_read_input_tokens=100, cache_creation_input_tokens=50,
        prompt_tokens_details={"cached_tokens": 100, "cache_creation_tokens": 50, "text_tokens": None},
        completion_tokens_details=None, server_tool_use=None)), (10, 100, 20, 0)),
    "bedrock, metrics": ([ROLE, WORDS, {**STOP, "amazon-bedrock-invocationMetrics": {"inputTokenCount": 100,
        "outputTokenCount": 20, "invocationLatency": 900}}, DONE], (100, 0, 20, 0)),
    "bedrock, converse": (whole({"inputTokens": 100, "outputTokens": 20, "totalTokens": 120}), (100, 0, 20, 0)),
    "vertex": ([WORDS, {**STOP, "usage": use(100, 20, 150, extra_properties={"google": {"traffic_type": "ON_DEMAND"}},
        completion_tokens_details={"reasoning_tokens": 30})}, DONE], (100, 0, 50, 30)),
    "gemini, its own": ([{**WORDS, "usageMetadata": {"promptTokenCount": 100, "totalTokenCount": 100}},
        {**STOP, "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 20, "thoughtsTokenCount": 30,
        "totalTokenCount": 150}}, DONE], (100, 0, 50, 30)),
    "gemini, its own, whole": (whole(usage_metadata={"prompt_token_count": 100, "candidates_token_count": 20,
        "total_token_count": 120}), (100, 0, 20, 0)),
    "gemini, finish with words": ([{**piece({"role": "assistant", "content": TEXT}, "stop"), "usage": PLAIN}, DONE],
                                  (100, 0, 20, 0)),
    "one-api": ([ROLE, WORDS, STOP, bare(usage=use(100, 20, input_tokens=0, output_tokens=0, input_tokens_details=None,
        prompt_cache_hit_tokens=0)), DONE], (100, 0, 20, 0)),
    "one-api, anthropic's names": (whole(use(0, 0, 0, input_tokens=100, output_tokens=20)), (100, 0, 20, 0)),
    "new-api, empty objects": ([{**ROLE, "usage": {}}, {**WORDS, "usage": {}}, {**STOP, "usage": {}}, bare(usage=PLAIN), DONE],
                               (100, 0, 20, 0)),
    "portkey": ([ROLE, WORDS, {**STOP, "usage": {**PLAIN, "cache_read_input_tokens": 0}}, {"provider": "x", "hook_results": {}},
                 DONE], (100, 0, 20, 0)),
    "bifrost": ([ROLE, WORDS, {**STOP, "usage": PLAIN, "extra_fields": {"latency": 3}}], (100, 0, 20, 0)),
    "watsonx": (whole({"generated_token_count": 20, "input_token_count": 100}), (100, 0, 20, 0)),
    "cloudflare": ([{"response": "", "usage": use(0, 0), "choices": []}, ROLE, WORDS, {**STOP, "usage": PLAIN}, DONE],
                   (100, 0, 20, 0)),
    "databricks": ([{**ROLE, "usage": use(100, 1)}, {**WORDS, "usage": use(100, 19)}, {**STOP, "usage": use(100, 20)}, DONE],
                   (100, 0, 20, 0)),
    "strings": ([ROLE, WORDS, {**STOP, "usage": {"prompt_tokens": "100", "completion_tokens": "20", "total_tokens": "120"}}, DONE],
                (100, 0, 20, 0)),
    "floats": (whole(use(100.0, 20.0)), (100, 0, 20, 0)),
    "a list": (whole([PLAIN]), (100, 0, 20, 0)),
    "a list of parts": ([ROLE, WORDS, {**STOP, "usage": [use(60, 15), use(40, 5)]}, DONE], (100, 0, 20, 0)),
    "a text": ([ROLE, WORDS, STOP, bare(usage='{"prompt_tokens": 100, "completion_tokens": 20}'), DONE], (100, 0, 20, 0)),
    "a total that is less": (whole(use(100, 20, 7)), (100, 0, 20, 0)),
    "a negative detail": (whole(use(100, 20, completion_tokens_details={"reasoning_tokens": -3})), (100, 0, 20, 0)),
    "null choices": ([ROLE, WORDS, STOP, {**bare(usage=PLAIN), "choices": None}, DONE], (100, 0, 20, 0)),
    "no choices": ([ROLE, WORDS, STOP, {"usage": PLAIN}, DONE], (100, 0, 20, 0)),
    "figures before the words": ([bare(usage=use(100, 0)), ROLE, WORDS, {**STOP, "usage": PLAIN}, DONE], (100, 0, 20, 0)),
    "figures after the end": ([ROLE, WORDS, STOP, bare(), bare(usage=PLAIN), bare()], (100, 0, 20, 0)),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(("script", "billed"), VENDORS.values(), ids=VENDORS.keys())
def test_each_vendor_is_billed_by_its_usage(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    body: dict[str, Any],
    facts: Facts,
    script: Any,
    billed: tuple[int, int, int, int],
    streaming: bool,
    door: str,
) -> None:
    fake.will(fakes.stream(script) if isinstance(script, list) else fakes.answer(script))
    payload = {**body, "model": "openai/house-model", "messages": MESSAGES, "stream": streaming}
    if door == "openai":
        payload.pop("codebuff_metadata")
        payload |= {"stream_options": {"include_usage": True}} if streaming else {}
    answer = web.post(DOORS[door], json=payload, headers=rich.headers)
    assert answer.status_code == 200, answer.text
    call = facts.call()
    assert (call.state, call.usage_source, call.error) == ("settled", "provider", None)
    found = (call.uncached_input_tokens, call.cache_read_tokens, call.output_tokens, call.reasoning_tokens)
    assert found == billed
    assert len(facts.messages()) == 1
    use = streamed(answer.data) if streaming else whole_answer(answer.json)
    assert (
        use["prompt_tokens"] == call.uncached_input_tokens + call.cache_read_tokens + call.cache_write_tokens
    )
    assert use["completion_tokens"] in (call.output_tokens, call.output_tokens - call.reasoning_tokens)
    price = Decimal(call.price["input"]), Decimal(call.price["output"])
    assert call.cost == ((use["prompt_tokens"]) * price[0] + call.output_tokens * price[1]) / 1_000_000
    if door == "codebuff":
        details = use.get("cost_details") or {}
        paid = Decimal(repr(use["cost"])) + Decimal(repr(details.get("upstream_inference_cost") or 0))
        assert paid == call.cost


def streamed(data: bytes) -> dict[str, Any]:
    """What OpenAI's client reads from a stream: the text once, one end, and the last usage."""
    events = list(SSEDecoder().iter_bytes(iter([data])))
    assert [event.data for event in events].count("[DONE]") == 1
    chunks = [ChatCompletionChunk.construct(**event.json()) for event in events[:-1]]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert all(choice.delta is not None for choice in choices)
    said = [choice.delta.content or "" for choice in choices]
    assert "".join(text if isinstance(text, str) else text[-1]["text"] for text in said) == TEXT
    assert {choice.finish_reason for choice in choices if choice.finish_reason} - {"null"} == {"stop"}
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    return usages[-1].to_dict()


def whole_answer(body: dict[str, Any]) -> dict[str, Any]:
    """What OpenAI's client reads from a whole answer."""
    answer = ChatCompletion.construct(**body)
    content = answer.choices[0].message.content
    assert content == TEXT or content[-1]["text"] == TEXT  # type: ignore[index]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    return answer.usage.to_dict()


# -- costs reported by OpenRouter ----------------------------------------------------------------------------

LISTED = Decimal("0.0000125")
"""For gpt-5-mini, which answers: 10 input tokens at $0.25 and 5 output tokens at $2 per million."""


def priced(**more: Any) -> dict[str, Any]:
    return fakes.chunk(None, usage={"prompt_tokens": 10, "completion_tokens": 5, **more})


def of_key(cost: Any, details: Any, byok: Any = True) -> dict[str, Any]:
    return priced(cost=cost, is_byok=byok, cost_details=details)


SAID, END = fakes.chunk({"content": TEXT}), fakes.chunk({}, "stop")
COSTS: dict[str, tuple[list[Any], Decimal]] = {
    "a number": ([priced(cost=0.02)], Decimal("0.02")),
    "a text": ([priced(cost="0.02")], Decimal("0.02")),
    "an exponent": ([priced(cost="2e-2")], Decimal("0.02")),
    "tiny": ([priced(cost=1e-9)], Decimal("1e-9")),
    "far above the list": ([priced(cost=9)], Decimal(9)),
    "nothing": ([priced(cost=0)], Decimal(0)),
    "a sign": ([priced(cost="$0.02")], LISTED),
    "not a number": ([b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"cost":NaN}}\n\n'], LISTED),
    "less than nothing": ([priced(cost=-1)], LISTED),
    "an object": ([priced(cost={"total_cost": 0.5})], LISTED),
    "a truth": ([priced(cost=True)], LISTED),
    "null": ([priced(cost=None)], LISTED),
    "under another name": ([priced(total_cost=0.3)], LISTED),
    "no tokens beside": ([fakes.chunk(None, usage={"cost": 0.5})], Decimal("0.5")),
    "zero tokens beside": ([fakes.chunk(None, usage=use(0, 0, cost=0.5))], Decimal("0.5")),
    "in two chunks": ([priced(), fakes.chunk(None, usage={"cost": 0.1})], Decimal("0.1")),
    "twice": ([priced(cost=0.1), priced(cost=0.2)], Decimal("0.2")),
    "twice, the last one less": ([priced(cost=0.2), priced(cost=0.1)], Decimal("0.1")),
    "and then nothing": ([priced(cost=0.1), priced(cost=0)], Decimal("0.1")),
    "and then none": ([priced(cost=0.1), priced()], Decimal("0.1")),
    "on the way": ([{**SAID, "usage": priced(cost=0.5)["usage"]}, SAID], Decimal("0.5")),
    "of a key": ([of_key(0.01, {"upstream_inference_cost": 0.2})], Decimal("0.21")),
    "of a key, texts": ([of_key("0", {"upstream_inference_cost": "0.2"}, "true")], Decimal("0.2")),
    "of a key, in two sides": ([of_key(0, {"upstream_inference_prompt_cost": 0.1,
        "upstream_inference_completions_cost": 0.05})], Decimal("0.15")),
    "of a key, not told": ([of_key(0, None)], LISTED),
    "of no key": ([of_key(0.02, {"upstream_inference_cost": 0.02}, False)], Decimal("0.02")),
    "of no key, texts": ([of_key(0.02, {"upstream_inference_cost": 0.02}, "false")], Decimal("0.02")),
    "of nobody's key": ([priced(cost=0.02, cost_details={"upstream_inference_cost": 0.02})], Decimal("0.02")),
    "details alone": ([priced(cost_details={"upstream_inference_cost": 0.3})], LISTED),
}  # fmt: skip


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(("script", "dollars"), COSTS.values(), ids=COSTS.keys())
def test_the_reported_cost_is_billed_and_the_sdk_reads_it(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    body: dict[str, Any],
    facts: Facts,
    script: list[Any],
    dollars: Decimal,
    streaming: bool,
) -> None:
    fake.will(fakes.stream([SAID, *script, END, DONE]))
    answer = web.post(DOORS["codebuff"], json={**body, "stream": streaming}, headers=rich.headers)
    assert answer.status_code == 200
    call = facts.call()
    assert call.cost == pytest.approx(dollars, rel=Decimal("1e-9"))
    events = [event.json() for event in SSEDecoder().iter_bytes(iter([answer.data])) if event.data != DONE]
    usage = (
        [event["usage"] for event in events if event.get("usage")][-1] if streaming else answer.json["usage"]
    )
    details = usage.get("cost_details") or {}
    assert usage["cost"] + (details.get("upstream_inference_cost") or 0) == pytest.approx(float(dollars))


def test_each_of_several_requests_is_priced_by_its_own_usage(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    with_cost, without = (
        fakes.answer(fakes.completion(TEXT, use(10, 5, **more))) for more in ({"cost": 9}, {})
    )
    fake.will(with_cost, without, without)
    metadata = {**body["codebuff_metadata"], "n": 3}
    answer = web.post(DOORS["codebuff"], json={**body, "codebuff_metadata": metadata}, headers=rich.headers)
    assert facts.call().cost == 9 + 2 * LISTED
    assert facts.call().flags == ["cost_far_above_list"]
    assert answer.json["usage"]["cost"] == pytest.approx(float(9 + 2 * LISTED))
