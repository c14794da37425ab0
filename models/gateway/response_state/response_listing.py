"""Pages of the items that a response was generated from."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from models.gateway.chat_format import BadCall

MAX_PAGE = 100


class ItemPage(NamedTuple):
    """The items of a page, and whether more follow."""

    items: Sequence[Mapping[str, Any]]
    more: bool


def item_page(
    items: Sequence[Mapping[str, Any]], *, limit: int, newest_first: bool, after: str | None
) -> ItemPage:
    """The page after the item with this id, or the first one. Raises BadCall for an id that is not among them."""
    ordered = list(reversed(items)) if newest_first else list(items)
    start = 0
    if after is not None:
        places = [place for place, item in enumerate(ordered) if item.get("id") == after]
        if not places:
            raise BadCall(f"'after': the response has no item '{after}'.", param="after")
        start = places[0] + 1
    return ItemPage(ordered[start : start + limit], len(ordered) > start + limit)
