"""The store's page: search, filters, orders and batches of cards, for anybody."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from flask import Blueprint, Response, current_app, render_template, request, url_for
from flask.typing import ResponseReturnValue
from jinja2.utils import LRUCache
from markupsafe import Markup
from werkzeug.datastructures import MultiDict

from models.accounts import User
from models.db import db, now
from models.store import freshness, listing
from models.store.freshness import Kept, Stamp
from models.store.listing import BATCH, DAYS, MOST_SHOWN, Card, Offer, Wanted, words_of
from views.format import ago
from views.gateway import gateway
from views.guards import cookie_user, settings
from views.htmx import answer, get_flashed_messages_waiting, wants_fragment
from views.store import previews

bp = Blueprint("store", __name__)

SORTS = {
    "cost": "Weekly usage",
    "usage": "Total runs",
    "unique_users": "Unique users",
    "newest": "Newest",
    "name": "Name",
}
BEST = "Best match"

PAGE = "store/store.html"
PAGES_KEPT = 256
CARDS_KEPT = 2_000
KEPT_SECONDS = 60
"""How long a drawn list is sent again at most: times are told in words."""

MOST_CHOSEN = 20
LONGEST = 100
BY_ITSELF = 96
"""Up to so many cards the next ones come when the reader is there; then a click asks for them."""

FIELDS = {"search", "tags", "publishers", "vendors", "verified", "deprecated"}

_pages: LRUCache = LRUCache(PAGES_KEPT)
_cards: LRUCache = LRUCache(CARDS_KEPT)
_offer: Kept[Offer] = Kept()
_frames: dict[bool, Kept[tuple[str, ...]]] = {True: Kept(), False: Kept()}

HERE = Markup("<!-- list -->")
"""Where the list stands in a frame that is kept."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for; `shown` is how many cards a whole page shows, `after` the key of a batch."""

    wanted: Wanted
    sort: str
    after: str
    shown: int

    @classmethod
    def of(cls, args: "MultiDict[str, str]") -> "Asked":
        """Read a query string. What is unknown or too long counts as not given."""
        search = args.get("search", args.get("q", "")).replace("\x00", "").strip()[:200]
        searches = bool(words_of(search))
        sort = args.get("sort", "")
        sort = sort if sort in SORTS and (searches or sort != "cost") else ""
        wanted = Wanted(
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
        return url_for("store.shelf", **{name: value for name, value in query.items() if value})

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
def shelf() -> ResponseReturnValue:
    """The store (contract 4.3). htmx gets the results alone, or with a key only what follows it.

    What everybody sees is drawn once and sent again while nothing changed, for a minute at most.
    """
    asked = Asked.of(request.args)
    state = freshness.stamp(gateway(current_app).pool)
    if wants_fragment():
        return _fragment(asked, state)
    user = cookie_user()
    if user is None and not get_flashed_messages_waiting():
        page = _drawn(PAGE, asked, state)
    else:
        page = _page(asked, state, user)
    response = answer(page, varies=True)
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


def _page(asked: Asked, state: Stamp, user: User | None) -> Markup:
    """The whole page: what everybody sees, in the frame of who looks."""
    body = _drawn("store/_shelf.html", asked, state)
    return Markup(_framed(asked.plain, state, user, body))  # noqa: S704  (our own template, which escapes)


def _framed(plain: bool, state: Stamp, user: User | None, body: Markup) -> str:
    return render_template(
        PAGE,
        body=body,
        plain=plain,
        agents=_kept_offer(state).agents,
        base=settings().base_url,
        publishes=user is not None and listing.publishes(db.session, user.id),
    )


def _strangers_page(asked: Asked, state: Stamp) -> Markup:
    """The page of who is not signed in; its frame is the same around every list."""
    body = _drawn("store/_shelf.html", asked, state)
    before, after = _frames[asked.plain].get(
        Stamp(state.published, 0, True),
        lambda: tuple(_framed(asked.plain, state, None, HERE).split(HERE)),
    )
    return Markup("".join((before, body, after)))  # noqa: S704  (our own template, which escapes)


def _fragment(asked: Asked, state: Stamp) -> Response:
    if not asked.after:
        response = answer(_drawn("store/_results.html", asked, state), varies=True)
        response.headers["HX-Replace-Url" if _only_typed(asked) else "HX-Push-Url"] = asked.here
        return response
    response = answer(_drawn("store/_more.html", asked, state), varies=True)
    response.headers["HX-Replace-Url"] = asked.here
    return response


def _only_typed(asked: Asked) -> bool:
    """Whether only the words searched for are others than before: they replace the address, so that one step back
    leaves the search instead of taking a letter from it."""
    query = urlsplit(request.headers.get("HX-Current-URL", "")).query
    before = Asked.of(MultiDict(parse_qsl(query)))
    return replace(before.wanted, search="", sort="") == replace(asked.wanted, search="", sort="") and (
        before.sort == asked.sort
    )


def _drawn(template: str, asked: Asked, state: Stamp) -> Markup:
    """A piece of the page that is the same for everybody, drawn or as it was kept. Raises Invalid for a broken key."""
    key = (template, asked)
    kept: Kept[Markup] | None = _pages.get(key)
    if kept is None:
        kept = _pages.setdefault(key, Kept(KEPT_SECONDS))
    return kept.get(state, lambda: _draw(template, asked, state))


def _draw(template: str, asked: Asked, state: Stamp) -> Markup:
    if template == PAGE:
        return _strangers_page(asked, state)
    pool = gateway(current_app).pool
    today = now().astimezone(UTC).date()
    more = template == "store/_more.html"
    size = BATCH if asked.after else asked.shown
    found = listing.batch(pool, asked.wanted, today, after=asked.after or None, size=size)
    chosen: Sequence[Card] = ()
    if asked.plain and not more:
        chosen = listing.choice(pool, settings().stoa_editors_choice, today)
    shown = asked.shown if more else size
    following = shown + BATCH
    context: Mapping[str, object] = {
        "asked": asked,
        "batch": found,
        "cards": [_card(each) for each in found.cards],
        "chosen": [_card(each) for each in chosen],
        "offer": _kept_offer(state),
        "filters": _filters(asked.wanted, state) if template == "store/_shelf.html" else None,
        "next_href": found.next and asked.href(after=found.next),
        "next_part": found.next and asked.href(after=found.next, shown=min(following, MOST_SHOWN)),
        "by_itself": following <= BY_ITSELF,
        "batch_size": BATCH,
    }
    return Markup(render_template(template, **context))  # noqa: S704  (our own template, which escapes)


def _filters(wanted: Wanted, state: Stamp) -> Markup:
    """What there is to choose from and what is chosen, whatever is searched for."""
    chosen = replace(wanted, search="", sort="")
    kept: Kept[Markup] | None = _pages.get(chosen)
    if kept is None:
        kept = _pages.setdefault(chosen, Kept())
    offered = _kept_offer(state)
    template = "store/_filters.html"
    return kept.get(
        Stamp(state.published, 0, True),
        lambda: Markup(render_template(template, wanted=chosen, offer=offered)),  # noqa: S704
    )


def _card(card: Card) -> Markup:
    """A card, drawn or as it was kept: the same ones are found in many ways. It is drawn anew when its words change."""
    words = (ago(card.last_used), ago(card.published_at))
    kept = _cards.get((card.publisher_id, card.id))
    if kept is not None and kept[0] == words and kept[1] == card:
        return cast(Markup, kept[2])
    template: Any = current_app.jinja_env.get_template("store/_card.html")
    drawn = cast(Markup, template.module.card(card, *words))
    _cards[card.publisher_id, card.id] = (words, card, drawn)
    return drawn


def _kept_offer(state: Stamp) -> Offer:
    # figures do not change what there is to choose from
    published = Stamp(state.published, 0, True)
    return _offer.get(published, lambda: listing.offer(db.session))


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
