"""What an export of a user's data holds of their own provider keys: all but the keys."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Select, select

from models.core.personal_export import add_csv, batches
from models.gateway.provider_keys import ProviderKey


def _own_keys(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        ProviderKey.id, ProviderKey.provider, ProviderKey.name, ProviderKey.hint, ProviderKey.created_at
    ).where(ProviderKey.user_id == user_id)
    return batches(query, ProviderKey.id)


add_csv(
    "own_provider_keys.csv",
    "Keys at providers that pay for your calls, without the keys themselves.",
    {
        "id": "id",
        "provider": "provider",
        "name": "its name",
        "hint": "its last four characters",
        "created_at": "when it was added",
    },
    _own_keys,
)
