"""A model in the lists of `GET /v1/models`: OpenAI's shape with OpenRouter's prices, and Anthropic's."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from models.gateway import model_names
from models.gateway.model_abilities import ABILITIES, abilities_of
from models.gateway.pricing import MILLION, ModelPrice
from models.gateway.route import Route
from views.web.operation import ResponseModel

CREATED = 1_735_689_600
"""`created` of every listed model: price tables have no such date."""


class ModelPricing(ResponseModel):
    prompt: str = Field(description="Input")
    completion: str = Field(description="Output")
    input_cache_read: str
    input_cache_write: str
    request: str = Field(description="Per call, in addition to tokens")


class ModelFacts(ResponseModel):
    id: str = Field(description="The `model` of a call")
    object: Literal["model"]
    created: int
    owned_by: str = Field(description="The provider that serves it")
    type: str = Field(description=f"What it does: one of {', '.join(model_names.ROUTES)}")
    context_window: int | None = Field(description="Tokens of input and output together; null if unknown")
    max_output_tokens: int | None = Field(description="null if unknown")
    capabilities: dict[str, Literal[True] | None] = Field(
        description=f"true where it is known, else null: {', '.join(ABILITIES)}"
    )
    pricing: ModelPricing | None = Field(description="Dollars per token; null if only the provider knows")


class CapabilitySupport(ResponseModel):
    model_config = ConfigDict(extra="allow")

    supported: bool


class AnthropicModel(ResponseModel):
    """The model for requests with `anthropic-version`, with the price as in the other format."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int | None = Field(description="Tokens; null if unknown")
    max_tokens: int | None = Field(description="Of the answer; null if unknown")
    capabilities: dict[str, CapabilitySupport]
    pricing: ModelPricing | None


class ModelList(ResponseModel):
    object: Literal["list"]
    data: list[ModelFacts]


class AnthropicModelList(ResponseModel):
    """The list for requests with `anthropic-version`."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str
    last_id: str


def openai_model(route: Route) -> dict[str, Any]:
    """The model in OpenAI's shape."""
    known = abilities_of(route.model, route.price)
    return {
        "id": route.name,
        "object": "model",
        "created": CREATED,
        "owned_by": route.provider.name,
        "type": route.kind,
        "context_window": _context(route),
        "max_output_tokens": route.price.max_output if route.price else None,
        "capabilities": {name: True if name in known else None for name in ABILITIES},
        "pricing": _pricing(route.price),
    }


def anthropic_model(route: Route) -> dict[str, Any]:
    """The model in Anthropic's shape."""
    name, known = route.name, abilities_of(route.model, route.price)
    claude = route.provider.name == "anthropic"

    def support(*abilities: str) -> dict[str, bool]:
        return {"supported": any(each in known for each in abilities)}

    thinking, no = support("reasoning"), {"supported": False}
    return {
        "type": "model",
        "id": name,
        "display_name": _display_name(route),
        "created_at": "2025-01-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": _context(route),
        "max_tokens": route.price.max_output if route.price else None,
        "capabilities": {
            "batch": no,
            "citations": {"supported": claude},
            "code_execution": no,
            "context_management": no,
            "effort": {**thinking, **dict.fromkeys(("low", "medium", "high"), thinking), "max": no},
            "image_input": support("image_input"),
            "pdf_input": support("pdf_input"),
            "server_tools": {
                **support("web_search"),
                "web_search": support("web_search"),
                "code_execution": no,
            },
            "structured_outputs": support("structured_output"),
            "thinking": {
                **thinking,
                "types": {
                    "adaptive": no,
                    "between_tools": no,
                    "disabled": {"supported": True},
                    "enabled": thinking,
                },
            },
        },
        "pricing": _pricing(route.price),
    }


def _display_name(route: Route) -> str:
    """The vendor's name of a model of the shipped table, such as `Claude Sonnet 4.5`; the id of others."""
    table, model = route.provider.table, route.model
    row = model_names.price_row(table, model) if model_names.has_row(table, model) else None
    return (row and row.name) or route.name


def _context(route: Route) -> int | None:
    return (route.price and route.price.context_window) or route.context_window


def _pricing(price: ModelPrice | None) -> dict[str, str] | None:
    """Dollars per token in OpenRouter's format, at the first price tier; None if only OpenRouter knows the price."""
    if price is None:
        return None
    tier = price.tiers[0]
    prices = {
        "prompt": tier.input / MILLION,
        "completion": tier.output / MILLION,
        "input_cache_read": tier.cache_read / MILLION,
        "input_cache_write": tier.cache_write / MILLION,
        "request": price.request,
    }
    return {name: f"{amount.normalize():f}" for name, amount in prices.items()}
