"""The LLM gateway."""

from models.gateway.gateway_call import USAGE_SOURCES, CallBody, GatewayCall
from models.gateway.price_imports import PriceImport
from models.gateway.provider_health import ProviderCounting, ProviderRollup
from models.gateway.response_state import ResponseStorage, StoredResponse

__all__ = [
    "USAGE_SOURCES",
    "CallBody",
    "GatewayCall",
    "PriceImport",
    "ProviderCounting",
    "ProviderRollup",
    "ResponseStorage",
    "StoredResponse",
]
