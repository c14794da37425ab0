"""The LLM gateway."""

from models.gateway.calls import USAGE_SOURCES, GatewayCall

__all__ = ["USAGE_SOURCES", "GatewayCall"]
