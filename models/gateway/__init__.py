"""The LLM gateway."""

from models.gateway.gateway_call import USAGE_SOURCES, GatewayCall

__all__ = ["USAGE_SOURCES", "GatewayCall"]
