"""The LLM gateway."""

from models.gateway import exported_provider_keys
from models.gateway.gateway_call import USAGE_SOURCES, CallBody, GatewayCall
from models.gateway.provider_health import ProviderCounting, ProviderRollup
from models.gateway.provider_keys import ProviderKey

__all__ = [
    "USAGE_SOURCES",
    "CallBody",
    "GatewayCall",
    "ProviderCounting",
    "ProviderKey",
    "ProviderRollup",
    "exported_provider_keys",
]
