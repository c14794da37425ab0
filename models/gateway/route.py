"""A route: who serves a call, and what it may cost."""

from dataclasses import dataclass, field, replace
from decimal import Decimal

from models.gateway import model_names
from models.gateway.aliases import Alias
from models.gateway.chat_format import Call
from models.gateway.chat_format.chat_parsing import BYTES_PER_TOKEN
from models.gateway.output_estimator import DEFAULT_OUTPUT, FLOOR_OUTPUT
from models.gateway.price_factors import PriceFactors
from models.gateway.pricing import ModelPrice, flat, tier_of
from models.gateway.providers.provider import Provider
from models.gateway.upstream import UpstreamTimeouts
from models.ledger.credits import MICRO

MAX_OUTPUT = 1_048_576
"""Output tokens that no model exceeds. A larger `max_tokens` does not increase the hold."""
FALLBACK_PRICE = flat(3, 15, source="fallback")
"""The price of an unlisted model if its provider reports costs but did not."""
UNLISTED_PRICE = flat(30, 180, source="unlisted")
"""The price of the hold for an unlisted model. All listed models but one are cheaper."""
UNLISTED = {
    "embedding": flat(1, 0, source="unlisted"),
    "rerank": replace(flat(1, 0, source="unlisted"), units={"search_units": Decimal("0.005")}),
}
FALLBACKS = {
    "embedding": flat("0.2", 0, source="fallback"),
    "rerank": ModelPrice("fallback", (tier_of(0, {}),), units={"search_units": Decimal("0.0025")}),
}
"""The same for kinds of models that cost less."""


@dataclass(frozen=True, slots=True)
class Route:
    """Provider, model and price of a call. `price` is None only if the provider reports the cost itself."""

    provider: Provider
    requested: str
    model: str
    price: ModelPrice | None
    byok: str | None = None
    """The caller's own provider key, which then pays for the call."""
    byok_name: str = ""
    """How errors call it, if it is a stored one: `your own key 'Research'`."""
    factors: PriceFactors = field(default_factory=PriceFactors)
    """Parameters of the request that affect the price."""
    dropped: tuple[str, ...] = ()
    """Request keys removed because the provider would reject them."""
    timeouts: UpstreamTimeouts | None = None
    """Of this model; None for the provider's."""
    alias: Alias | None = None
    """The alias that it was found by."""
    others: "tuple[Route, ...]" = ()
    """What else the alias stands for, in the order to try it."""

    @property
    def name(self) -> str:
        """The name that it is called by: an alias, or the model's."""
        return self.alias.name if self.alias else self.requested

    kind: str = model_names.CHAT
    """The kind of the model (`model_names`)."""

    @property
    def held_price(self) -> ModelPrice:
        """The price of the hold."""
        return self.price or UNLISTED.get(self.kind, UNLISTED_PRICE)

    @property
    def context_window(self) -> int | None:
        """Context window of the model in tokens; None if unknown."""
        if self.price and self.price.context_window:
            return self.price.context_window
        row = model_names.price_row(self.provider.table, model_names.split_variant(self.model)[0])
        return row.context_window if row else None

    def held_output(self, call: Call, answers: int, size: int = DEFAULT_OUTPUT) -> int:
        """Output tokens that the first hold covers. `answers`: number of answers to the same input.

        A stream holds `size` tokens per answer, or the limit if that is lower: the hold grows with the output. A
        non-streaming answer cannot be stopped once it is requested, so it holds the limit. The limit is the client's or the
        model's: the lower one if the model's is known.
        """
        prices = (self.held_price, *self.factors.prices)
        limit = max(self._max_output(price) for price in prices)
        if call.max_output is not None:
            requested = max(call.max_output, self.factors.max_output)
            limit = min(requested, limit) if all(price.max_output for price in prices) else requested
        limit = min(limit, size if call.stream else MAX_OUTPUT)
        return (limit + self.factors.output) * answers

    def _max_output(self, price: ModelPrice) -> int:
        """Output limit in tokens of a model with this price."""
        limit = price.max_output or self.provider.max_output
        return min(limit, price.context_window or limit)

    def cost_up_to(self, call: Call, output_tokens: int, answers: int) -> Decimal:
        """Maximum cost in dollars with this much output. Assumes one input token per byte of text, up to the context
        window."""
        inputs = 1 if self.provider.native_n else answers
        factors = self.factors
        media = {bucket: count * inputs for bucket, count in factors.media.items()}
        max_cost = max(
            price.max_cost(
                _max_tokens(call, price.context_window) * inputs,
                output_tokens,
                media=media,
                write_bucket=factors.write_bucket,
                audio=factors.audio,
            )
            for price in (self.held_price, *factors.prices)
        )
        return max_cost * factors.factor + (factors.dollars + factors.certain) * answers

    def minimum_cost(self, call: Call, text_tokens: int, answers: int) -> Decimal:
        """Likely cost of the input and of FLOOR_OUTPUT tokens per answer, or the client's limit if lower, in dollars."""
        inputs = 1 if self.provider.native_n else answers
        output = FLOOR_OUTPUT if call.max_output is None else min(call.max_output, FLOOR_OUTPUT)
        price = self.price or FALLBACKS.get(self.kind, FALLBACK_PRICE)
        tokens = price.minimum_cost((text_tokens + self.factors.likely) * inputs, output * answers)
        return tokens + self.factors.certain * answers


def held_credits(cost: Decimal, margin: Decimal) -> int:
    """Credits to hold for a cost in dollars plus margin: its micro-credits, which are what is charged, rounded up."""
    return -(-int(cost * 100 * MICRO * (1 + margin)) // MICRO)


def _max_tokens(call: Call, window: int | None) -> int:
    """Maximum tokens of the text: one per byte, up to the context window for each input, but not below the conservative
    estimate."""
    size = call.text_bytes
    return size if window is None else min(size, max(window * call.inputs, size // BYTES_PER_TOKEN))
