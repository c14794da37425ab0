"""The public store page: search, filters, sorting and pages of cards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from flask import Blueprint, Response, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MultiDict

from models.core.db import now
from models.store.catalogue import facets, listing
from models.store.catalogue.listing import BATCH, DAYS, MAX_SHOWN, ListingQuery, words_of
from views.store.pages import previews
from views.web.guards import cookie_user, settings
from views.web.htmx import answer, wants_fragment

bp = Blueprint("store", __name__)

SORTS = {
    "cost": "Weekly usage",
    "usage": "Total runs",
    "unique_users": "Unique users",
    "stars": "Most stars",
    "newest": "Newest",
    "name": "Name",
}
RELEVANCE = "Best match"
COSTS = {
    "1": "Up to 1 credit",
    "10": "2 to 10 credits",
    "100": "11 to 100 credits",
    "more": "Over 100 credits",
}
"""Labels of `agent_costs.BANDS`."""
FILTERS = (
    ("tags", "Tag"),
    ("publishers", "Publisher"),
    ("vendors", "Model by"),
    ("licenses", "Licence"),
    ("costs", "Cost per run"),
)

MAX_VALUES = 20
MAX_VALUE_LENGTH = 100
INFINITE_SCROLL = 96
"""Cards loaded by infinite scroll; beyond them, “Load more” needs a click."""

FIELDS = {"search", "tags", "publishers", "vendors", "licenses", "costs", "verified", "deprecated"}


@dataclass(frozen=True, slots=True)
class StoreQuery:
    """The parsed query string: `shown` is the number of cards of a full page, `after` the cursor of the next batch."""

    filters: ListingQuery
    sort: str
    after: str
    shown: int

    @classmethod
    def of(cls, args: "MultiDict[str, str]") -> "StoreQuery":
        """Parse a query string. Unknown or overlong values are ignored."""
        search = args.get("search", args.get("q", "")).replace("\x00", "").strip()[:200]
        searches = bool(words_of(search))
        sort = args.get("sort", "")
        sort = sort if sort in SORTS and (searches or sort != "cost") else ""
        filters = ListingQuery(
            search=search,
            tags=_values(args, "tag"),
            publishers=_values(args, "publisher"),
            vendors=_values(args, "vendor"),
            licenses=_values(args, "license"),
            costs=tuple(band for band in _values(args, "cost") if band in COSTS),
            verified=bool(args.get("verified")),
            deprecated=bool(args.get("deprecated")),
            sort=sort or ("relevance" if searches else "cost"),
        )
        shown = args.get("shown", "")
        count = int(shown) if shown.isascii() and shown.isdigit() and len(shown) < 6 else BATCH
        return cls(filters, sort, args.get("after", ""), min(max(count, BATCH), MAX_SHOWN) // BATCH * BATCH)

    def href(self, **changes: Any) -> str:
        """URL of the listing with `changes` applied. `after` and `shown` are dropped unless given."""
        changed = {name: value for name, value in changes.items() if name in FIELDS}
        filters = replace(self.filters, **changed)
        query: dict[str, Any] = {
            "search": filters.search,
            "tag": filters.tags,
            "publisher": filters.publishers,
            "vendor": filters.vendors,
            "license": filters.licenses,
            "cost": filters.costs,
            "verified": "1" if filters.verified else "",
            "deprecated": "1" if filters.deprecated else "",
            "sort": changes.get("sort", self.sort),
            "after": changes.get("after"),
            "shown": changes.get("shown"),
        }
        return url_for("store.browse", **{name: value for name, value in query.items() if value})

    @property
    def plain(self) -> bool:
        """Whether this is the default view: no search, filters, sort order or cursor."""
        return not (self.after or self.filters.is_filtered or self.filters.deprecated or self.sort)

    @property
    def here(self) -> str:
        """URL that shows the same cards from the first one on."""
        return self.href(shown=self.shown if self.shown > BATCH else "")

    @property
    def chips(self) -> list[tuple[str, str]]:
        """Label of each active filter, and the URL without it."""
        filters, found = self.filters, []
        if filters.search:
            found.append((f"“{filters.search}”", self.href(search="")))
        for name, label in FILTERS:
            values: tuple[str, ...] = getattr(filters, name)
            for value in values:
                left = tuple(each for each in values if each != value)
                text = COSTS[value] if name == "costs" else value
                found.append((f"{label}: {text}", self.href(**{name: left})))
        if filters.verified:
            found.append(("Verified only", self.href(verified=False)))
        if filters.deprecated:
            found.append(("Including deprecated", self.href(deprecated=False)))
        return found

    @property
    def sorts(self) -> list[tuple[str, str]]:
        """The sort options; the first is the default."""
        if words_of(self.filters.search):
            return [("", RELEVANCE), *SORTS.items()]
        return [("" if key == "cost" else key, label) for key, label in SORTS.items()]


@bp.get("/store")
def browse() -> ResponseReturnValue:
    """Show the store (contract 4.3). htmx receives the results, or with a cursor only the next cards."""
    query = StoreQuery.of(request.args)
    fragment = wants_fragment()
    more = fragment and bool(query.after)
    template = ("store/_more.html" if more else "store/_found.html") if fragment else "store/store.html"
    user = None if fragment else cookie_user()
    response = answer(
        render_template(
            template,
            base=settings().base_url,
            options=facets.filter_options(query.filters),
            has_publisher=user is not None and listing.has_publisher(user.id),
            **_results(query, more),
        ),
        varies=True,
    )
    if fragment:
        header = "HX-Replace-Url" if more or _only_search_changed(query) else "HX-Push-Url"
        response.headers[header] = query.here
    else:
        response.headers["Cache-Control"] = "no-cache"
    return response


@bp.get("/store/preview.png")
def picture() -> Response:
    """The preview image (OpenGraph) of the store."""
    site = urlsplit(settings().base_url).netloc
    shown = (
        "Stoa",
        "Agent store",
        "Agents you can run with one command, with statistics from billed runs.",
        site,
    )
    return previews.answer(previews.card(*shown), previews.digest(*shown))


def _results(query: StoreQuery, more: bool) -> dict[str, Any]:
    """The template context of the listing: the first cards, or those after a cursor. Raises Invalid for a bad cursor."""
    today = now().astimezone(UTC).date()
    size = BATCH if query.after else query.shown
    batch = listing.batch(query.filters, today, after=query.after or None, size=size)
    choice = settings().stoa_editors_choice if query.plain and not more else ()
    following = (query.shown if more else size) + BATCH
    return {
        "query": query,
        "cost_labels": COSTS,
        "batch": batch,
        "chosen": listing.editors_choice(choice, today),
        "next_href": batch.next and query.href(after=batch.next),
        "next_part": batch.next and query.href(after=batch.next, shown=min(following, MAX_SHOWN)),
        "infinite_scroll": following <= INFINITE_SCROLL,
    }


def _only_search_changed(query: StoreQuery) -> bool:
    """Whether only the search text changed. It replaces the URL, so that Back leaves the search instead of undoing one
    letter."""
    query_string = urlsplit(request.headers.get("HX-Current-URL", "")).query
    before = StoreQuery.of(MultiDict(parse_qsl(query_string)))
    return replace(before.filters, search="", sort="") == replace(query.filters, search="", sort="") and (
        before.sort == query.sort
    )


def _values(args: "MultiDict[str, str]", name: str) -> tuple[str, ...]:
    values = (value.replace("\x00", "").strip() for value in args.getlist(name))
    return tuple(dict.fromkeys(value for value in values if 0 < len(value) <= MAX_VALUE_LENGTH))[:MAX_VALUES]


_TALL = 28
# SVG path segments precomputed per column and height: a listing draws hundreds of sparklines.
_TRACKS = [
    [f"M{4 * n} 0h3v{_TALL - h}h-3z" if h < _TALL else "" for h in range(_TALL + 1)] for n in range(DAYS)
]
_COLUMNS = [[f"M{4 * n} {_TALL - h}h3v{h}h-3z" if h else "" for h in range(_TALL + 1)] for n in range(DAYS)]


@bp.app_template_filter("spark")
def spark(line: Sequence[int]) -> dict[str, str]:
    """A sparkline of thirty days as SVG paths, one per colour: `track` (background), `day`, `now` (the last day)."""
    peak = max(line) or 1
    heights = [round(_TALL * count / peak) or 1 if count else 0 for count in line]
    columns = [of_day[height] for of_day, height in zip(_COLUMNS, heights, strict=True)]
    tracks = [of_day[height] for of_day, height in zip(_TRACKS, heights, strict=True)]
    return {"track": "".join(tracks), "day": "".join(columns[:-1]), "now": columns[-1]}
