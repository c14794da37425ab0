"""The LLM gateway."""

from models.gateway.gateway_call import USAGE_SOURCES, CallBody, GatewayCall

__all__ = ["USAGE_SOURCES", "CallBody", "GatewayCall"]
