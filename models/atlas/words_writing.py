"""Lets a model write the words about a part of a project: one paid call, whose end is stored whatever happens."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

from models.atlas.atlas_words import WORDS_CLIENT, AtlasWords, WordsAsk, fail_words, keep_words
from models.atlas.atlas_words_request import MAX_SOURCE, MAX_TOKENS
from models.core.db import extension
from models.core.errors import DomainError
from models.gateway.relay import Gateway
from models.gateway.route import held_credits
from models.insights.model_words import ModelFailed
from models.runs.internal_chat import CallFailed, chat_once

log = logging.getLogger("stoa.atlas")

FAILED = "The server failed while it waited for the model. Ask again."
TASK_TOKENS = 600
"""Tokens of a request beside source."""
Transaction = Callable[[], AbstractContextManager[None]]


def write_words(transaction: Transaction, ask: WordsAsk, key: str, org_id: str | None) -> AtlasWords | None:
    """Send a request that was begun and committed, with this API key or token of a session; `org_id` pays, else the account of the key.
    Holds no transaction meanwhile, then commits by `transaction`. None if the project is gone, or somebody asked again. Raises
    CallNotPossible (402 and others), ModelFailed (500), and whatever went wrong, once it is stored as the problem."""
    try:
        answer = chat_once(key, ask.request.body, client_id=WORDS_CLIENT, org_id=org_id, run_id=ask.run_id)
        with transaction():
            return keep_words(ask, answer.text, answer.request_id)
    except Exception as error:
        with transaction():
            fail_words(ask, error.message if isinstance(error, DomainError) else FAILED)
        if isinstance(error, CallFailed):
            raise ModelFailed(error.message) from error
        raise


def write_words_quietly(transaction: Transaction, ask: WordsAsk, key: str, org_id: str | None) -> None:
    """`write_words` where nobody waits: errors stand in the row, and those that are no refusal also in the log."""
    try:
        write_words(transaction, ask, key, org_id)
    except DomainError:
        pass
    except Exception:
        log.exception("words about a part of project %s were not written", ask.project_id)


def likely_credits(model: str, characters: int = MAX_SOURCE) -> int:
    """About how many credits a description costs whose request has this much source, rounded up. Raises DomainError for a model that no
    provider serves."""
    gateway: Gateway = extension("gateway")
    price = gateway.routes.find(model).held_price
    cost = price.minimum_cost(min(characters, MAX_SOURCE) // 3 + TASK_TOKENS, MAX_TOKENS // 3)
    return held_credits(cost, gateway.margin)
