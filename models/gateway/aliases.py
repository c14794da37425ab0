"""Aliases of models: weighted targets, then fallbacks, and the order in which a call tries them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import log

ErrorClass = str
CONNECT, RATE_LIMIT, OVERLOADED, SERVER_ERROR, TIMEOUT, CUT = ERROR_CLASSES = (
    "connect",
    "rate_limit",
    "overloaded",
    "server_error",
    "timeout",
    "cut",
)
"""Errors before the first byte of an answer, after which another target may answer: not connected; 429; 503 and 529; 408 and other 5xx;
no response in time; a connection that ended without one."""
SAFE = frozenset((CONNECT, RATE_LIMIT, OVERLOADED, SERVER_ERROR))
"""Those after which the provider surely charges nothing."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` further rounds over all targets, the last of which begins within `seconds`; after an error of a class in `on`."""

    attempts: int = 0
    seconds: float = 30.0
    on: frozenset[ErrorClass] = SAFE


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that stands for other models. `targets` share the calls by their weight; `fallbacks` follow in their order. `sticky`:
    calls of one session go to one target."""

    name: str
    targets: tuple[tuple[str, float], ...]
    fallbacks: tuple[str, ...] = ()
    sticky: bool = True
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    @property
    def models(self) -> tuple[str, ...]:
        """All models that may answer."""
        return tuple(dict.fromkeys((*(name for name, _ in self.targets), *self.fallbacks)))

    def order(self, session: str | None) -> tuple[str, ...]:
        """The models in the order to try them. With a session always the same, as long as its first targets stay (rendezvous
        hashing), else at random by weight."""
        if len(self.targets) == 1:
            return self.models
        ranked = sorted(self.targets, key=lambda target: _rank(session, *target))
        return tuple(dict.fromkeys((*(name for name, _ in ranked), *self.fallbacks)))


def _rank(session: str | None, name: str, weight: float) -> float:
    """The place of a target, lowest first: each is first with the probability of its share of the weights."""
    if session is None:
        uniform = random.random()  # noqa: S311 - no secret
    else:
        digest = blake2b(f"{session}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        uniform = int.from_bytes(digest) / 2**64
    return -log(max(uniform, 1e-18)) / weight


def describe(alias: Alias) -> str:
    """The alias in words: `a (weight 3), b (weight 1), then c`."""
    several = len(alias.targets) > 1
    targets: Sequence[str] = [
        f"{name} (weight {weight:g})" if several else name for name, weight in alias.targets
    ]
    return ", then ".join((", ".join(targets), *alias.fallbacks))
