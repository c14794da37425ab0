"""The LLM gateway."""

from models.gateway import exported_provider_keys
from models.gateway.gateway_call import USAGE_SOURCES, CallBody, GatewayCall
from models.gateway.price_imports import PriceImport
from models.gateway.provider_health import ProviderCounting, ProviderRollup
from models.gateway.provider_keys import ProviderKey
from models.gateway.response_state import ResponseStorage, StoredResponse

__all__ = [
    "USAGE_SOURCES",
    "CallBody",
    "GatewayCall",
    "PriceImport",
    "ProviderCounting",
    "ProviderKey",
    "ProviderRollup",
    "ResponseStorage",
    "StoredResponse",
    "exported_provider_keys",
]
