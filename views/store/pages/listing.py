"""The store's page: search, filters, orders and batches of cards, for anybody."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from flask import Blueprint, Response, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MultiDict

from models.core.db import now
from models.store.catalogue import listing
from models.store.catalogue.listing import BATCH, DAYS, MOST_SHOWN, ListingQuery, words_of
from views.store.pages import previews
from views.web.guards import cookie_user, settings
from views.web.htmx import answer, wants_fragment

bp = Blueprint("store", __name__)

SORTS = {
    "cost": "Weekly usage",
    "usage": "Total runs",
    "unique_users": "Unique users",
    "newest": "Newest",
    "name": "Name",
}
BEST = "Best match"

MOST_CHOSEN = 20
LONGEST = 100
BY_ITSELF = 96
"""Up to so many cards the next ones come when the reader is there; then a click asks for them."""

FIELDS = {"search", "tags", "publishers", "vendors", "verified", "deprecated"}


@dataclass(frozen=True, slots=True)
class StoreQuery:
    """What the address asks for; `shown` is how many cards a whole page shows, `after` the key of a batch."""

    wanted: ListingQuery
    sort: str
    after: str
    shown: int

    @classmethod
    def of(cls, args: "MultiDict[str, str]") -> "StoreQuery":
        """Read a query string. What is unknown or too long counts as not given."""
        search = args.get("search", args.get("q", "")).replace("\x00", "").strip()[:200]
        searches = bool(words_of(search))
        sort = args.get("sort", "")
        sort = sort if sort in SORTS and (searches or sort != "cost") else ""
        wanted = ListingQuery(
            search=search,
            tags=_chosen(args, "tag"),
            publishers=_chosen(args, "publisher"),
            vendors=_chosen(args, "vendor"),
            verified=bool(args.get("verified")),
            deprecated=bool(args.get("deprecated")),
            sort=sort or ("relevance" if searches else "cost"),
        )
        shown = args.get("shown", "")
        count = int(shown) if shown.isascii() and shown.isdigit() and len(shown) < 6 else BATCH
        return cls(wanted, sort, args.get("after", ""), min(max(count, BATCH), MOST_SHOWN) // BATCH * BATCH)

    def href(self, **changes: Any) -> str:
        """The address of the list with some of it changed; `after` and `shown` only where they are among the changes."""
        fields = {name: value for name, value in changes.items() if name in FIELDS}
        wanted = replace(self.wanted, **fields)
        query: dict[str, Any] = {
            "search": wanted.search,
            "tag": wanted.tags,
            "publisher": wanted.publishers,
            "vendor": wanted.vendors,
            "verified": "1" if wanted.verified else "",
            "deprecated": "1" if wanted.deprecated else "",
            "sort": changes.get("sort", self.sort),
            "after": changes.get("after"),
            "shown": changes.get("shown"),
        }
        return url_for("store.browse", **{name: value for name, value in query.items() if value})

    @property
    def plain(self) -> bool:
        """Whether it is the store as it opens: the first cards of all in their own order."""
        return not (self.after or self.wanted.narrows or self.wanted.deprecated or self.sort)

    @property
    def here(self) -> str:
        """The address of what is shown from the first card on."""
        return self.href(shown=self.shown if self.shown > BATCH else "")

    @property
    def chips(self) -> list[tuple[str, str]]:
        """The filters in use, in words, and the address without each."""
        wanted, found = self.wanted, []
        if wanted.search:
            found.append((f"“{wanted.search}”", self.href(search="")))
        for name, words in (("tags", "Tag"), ("publishers", "Publisher"), ("vendors", "Model by")):
            values: tuple[str, ...] = getattr(wanted, name)
            for value in values:
                left = tuple(each for each in values if each != value)
                found.append((f"{words}: {value}", self.href(**{name: left})))
        if wanted.verified:
            found.append(("Verified only", self.href(verified=False)))
        if wanted.deprecated:
            found.append(("Deprecated too", self.href(deprecated=False)))
        return found

    @property
    def sorts(self) -> list[tuple[str, str]]:
        """The orders to choose from; the first is what the list has by itself."""
        if words_of(self.wanted.search):
            return [("", BEST), *SORTS.items()]
        return [("" if key == "cost" else key, words) for key, words in SORTS.items()]


@bp.get("/store")
def browse() -> ResponseReturnValue:
    """The store (contract 4.3). htmx gets the results alone, or with a key only what follows it."""
    asked = StoreQuery.of(request.args)
    fragment = wants_fragment()
    more = fragment and bool(asked.after)
    template = ("store/_more.html" if more else "store/_results.html") if fragment else "store/store.html"
    user = None if fragment else cookie_user()
    response = answer(
        render_template(
            template,
            base=settings().base_url,
            offer=listing.offer(),
            publishes=user is not None and listing.publishes(user.id),
            **_found(asked, more),
        ),
        varies=True,
    )
    if fragment:
        way = "HX-Replace-Url" if more or _only_typed(asked) else "HX-Push-Url"
        response.headers[way] = asked.here
    else:
        response.headers["Cache-Control"] = "no-cache"
    return response


@bp.get("/store/preview.png")
def picture() -> Response:
    """The store's preview picture, for links to it on other sites."""
    site = urlsplit(settings().base_url).netloc
    shown = (
        "Stoa",
        "Agent store",
        "Agents you can run with one copied line, with figures from billed runs.",
        site,
    )
    return previews.answer(previews.card(*shown), previews.digest(*shown))


def _found(asked: StoreQuery, more: bool) -> dict[str, Any]:
    """What the list shows: the first cards, those of a page that goes on, or what follows them. Raises Invalid for a broken
    key."""
    today = now().astimezone(UTC).date()
    size = BATCH if asked.after else asked.shown
    batch = listing.batch(asked.wanted, today, after=asked.after or None, size=size)
    choice = settings().stoa_editors_choice if asked.plain and not more else ()
    following = (asked.shown if more else size) + BATCH
    return {
        "asked": asked,
        "batch": batch,
        "chosen": listing.choice(choice, today),
        "next_href": batch.next and asked.href(after=batch.next),
        "next_part": batch.next and asked.href(after=batch.next, shown=min(following, MOST_SHOWN)),
        "by_itself": following <= BY_ITSELF,
    }


def _only_typed(asked: StoreQuery) -> bool:
    """Whether only the words searched for are others than before: they replace the address, so that one step back
    leaves the search instead of taking a letter from it."""
    query = urlsplit(request.headers.get("HX-Current-URL", "")).query
    before = StoreQuery.of(MultiDict(parse_qsl(query)))
    return replace(before.wanted, search="", sort="") == replace(asked.wanted, search="", sort="") and (
        before.sort == asked.sort
    )


def _chosen(args: "MultiDict[str, str]", name: str) -> tuple[str, ...]:
    values = (value.replace("\x00", "").strip() for value in args.getlist(name))
    return tuple(dict.fromkeys(value for value in values if 0 < len(value) <= LONGEST))[:MOST_CHOSEN]


_TALL = 28
# What stands over and in each of the thirty columns, by its height: a list has hundreds of them.
_TRACKS = [
    [f"M{4 * n} 0h3v{_TALL - h}h-3z" if h < _TALL else "" for h in range(_TALL + 1)] for n in range(DAYS)
]
_COLUMNS = [[f"M{4 * n} {_TALL - h}h3v{h}h-3z" if h else "" for h in range(_TALL + 1)] for n in range(DAYS)]


@bp.app_template_filter("spark")
def spark(line: Sequence[int]) -> dict[str, str]:
    """Thirty days as the columns of a spark line, one path for each colour: `track`, `day`, `now` (the last day)."""
    most = max(line) or 1
    heights = [round(_TALL * count / most) or 1 if count else 0 for count in line]
    columns = [of_day[height] for of_day, height in zip(_COLUMNS, heights, strict=True)]
    tracks = [of_day[height] for of_day, height in zip(_TRACKS, heights, strict=True)]
    return {"track": "".join(tracks), "day": "".join(columns[:-1]), "now": columns[-1]}
