"""The playground: conversations with models in the browser, each turn an ordinary call of the gateway."""

from models.playground.agent_prefill import AgentPrefill, prefill_of
from models.playground.call_code import CallCode, code_of
from models.playground.playground_turn import EFFORTS, SIDES, PlaygroundTurn, plain_calls, read_turn

__all__ = [
    "EFFORTS",
    "SIDES",
    "AgentPrefill",
    "CallCode",
    "PlaygroundTurn",
    "code_of",
    "plain_calls",
    "prefill_of",
    "read_turn",
]
