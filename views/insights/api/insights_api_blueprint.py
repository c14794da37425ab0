"""The blueprint of the JSON API of insights, and the model that a caller asks for."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, current_app, request

from models.accounts import scopes
from models.accounts.api_keys import check_use
from models.core.db import db, extension
from models.core.errors import DomainError, Invalid
from models.insights.model_words import ModelFailed
from views.gateway.api.internal_calls import CallFailed, InternalAnswer, complete_chat
from views.gateway.api.model_calls import gateway
from views.web.guards import api_key, require_key
from views.web.operation import Answers, query

bp = Blueprint("insights_api", __name__, url_prefix="/v1")

RULES = "rules"
"""Instead of the name of a model: what needs none."""
MAX_MODEL = 200
MODEL = query(
    "model", "A model of `GET /v1/models`, whose call your key pays for, or `rules` for what needs none"
)
NO_MODEL: Answers = {
    402: "Not enough credits for the call of the model. With `model=rules` it is free",
    403: "Your role does not allow it, or the key lacks `inference:chat`, which a model needs",
    404: "You have no such project, or no provider serves the model (`MODEL_NOT_FOUND`)",
    500: "The model gave no answer, or none in the right format (`MODEL_FAILED`)",
    501: "No model is named, and the server has none for this (`NOT_IMPLEMENTED`)",
    "default": "The call of the model was refused, as on `POST /v1/chat/completions`",
}
GENERATIONS = "60/minute;2000/day"
"""How often a person may ask for words of a model, or for what rules find in their place."""


class NoModel(DomainError):
    """Neither the caller nor the server names a model."""

    status = 501
    code = "not_implemented"

    def __init__(self) -> None:
        super().__init__(
            "No model is chosen. Name one of GET /v1/models in '?model=', or 'rules' for what needs no model."
        )


def asked_model() -> str | None:
    """The model that is asked for, else that of the server; None for `RULES`. Raises NoModel (501), Invalid, MissingScope (403) if the key may not
    call models, NoRoute (404)."""
    model = request.args.get("model", "") or extension("settings").stoa_insights_model
    if not model:
        raise NoModel
    if model == RULES:
        return None
    check_use(require_key().key, scopes.CHAT, request.remote_addr)
    if len(model) > MAX_MODEL or "\0" in model:
        raise Invalid(f"'model' must be the name of a model, with at most {MAX_MODEL} characters.")
    gateway(current_app).routes.find(model)
    return model


def said(body: Mapping[str, Any], client_id: str) -> InternalAnswer:
    """The answer of a model, by a call that the caller's key pays for; ends the transaction. Raises CallNotPossible (402 and others),
    ModelFailed (500)."""
    db.session.commit()  # no transaction during the call
    try:
        return complete_chat(api_key() or "", dict(body), client_id=client_id)
    except CallFailed as failure:
        raise ModelFailed(failure.message) from failure
