"""Bodies and answers of `/api/v1/api-keys`."""

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field

from models.accounts.api_keys import MAX_LISTED
from models.accounts.credentials import NAME_LENGTH
from views.web.body import Body, Instant, Int32, Missing
from views.web.operation import ResponseModel

Entries = Annotated[list[str], Field(max_length=MAX_LISTED)]
STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)


class KeyLimitsBody(Body):
    model_config = STRICT

    rpm: Int32 | None = Field(None, description="Model calls a minute; null: the server's default")
    tpm: Int32 | None = Field(None, description="Tokens a minute; null: no limit")
    parallel: Int32 | None = Field(None, description="Calls in flight; null: no limit")


class ApiKeyChanges(Body):
    """Omitted keys stay."""

    model_config = STRICT

    name: str | None = Field(None, max_length=NAME_LENGTH)
    permissions: Missing[Entries] = Field(None, description="Scopes; empty: nothing is allowed")
    active: Missing[bool] = None
    expires_at: Instant | None = Field(None, description="null: never")
    limits: Missing[KeyLimitsBody] = None
    allowed_models: Entries | None = Field(None, description="Patterns; null: all")
    allowed_agents: Entries | None = Field(None, description="Patterns of publisher/agent; null: all calls")
    allowed_ips: Entries | None = Field(None, description="Addresses or networks; null: all")
    strict: Missing[bool] = Field(None, description="Refuse calls for which fields would be dropped")


class NewApiKey(ApiKeyChanges):
    active: None = Field(None, exclude=True)
    environment: Missing[str] = Field(None, description="`live` or `test`")
    org_id: Missing[str] = Field(None, description="The organisation of the key that is used")


class Rotation(Body):
    model_config = STRICT

    grace_seconds: Missing[Int32] = Field(None, description="How long the old key works: 0 to 604800; a day")


class KeyLimitsAnswer(ResponseModel):
    rpm: int | None
    tpm: int | None
    parallel: int | None


class ApiKeyAnswer(ResponseModel):
    id: str
    key_id: str = Field(description="How the key begins: its public id, in the records of its calls")
    name: str | None
    masked: str
    environment: str
    permissions: list[str]
    state: str = Field(description="active, inactive, expired or revoked")
    active: bool
    user_id: str
    org_id: str | None
    created_by: str | None
    allowed_models: list[str] | None
    allowed_agents: list[str] | None
    allowed_ips: list[str] | None
    limits: KeyLimitsAnswer
    strict: bool
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    rotated_at: datetime | None
    prev_valid_until: datetime | None = Field(description="Until when the key before the rotation works")
    last_used_at: datetime | None
    revoked_at: datetime | None
    spent_this_month: int = Field(description="Credits")


class SecretAnswer(ApiKeyAnswer):
    key: str = Field(description="The key, in this response only")


class ApiKeyList(ResponseModel):
    data: list[ApiKeyAnswer]
    next_cursor: str | None
