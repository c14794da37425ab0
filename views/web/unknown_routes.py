"""Addresses of the API that lead nowhere, and methods they do not take: what was meant, and what there is.

Nothing is redirected: clients repeat a POST as a GET, or not at all.
"""

import difflib
import re
from collections.abc import Iterable
from typing import Any, cast

from flask import Flask, current_app, request, url_for
from htmx_flask.requests import HtmxAwareRequest
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import MapAdapter, Rule

from views.web import guards

PREFIX = re.compile(r"/*(?:api/+)?v1(?:/|$)", re.IGNORECASE)
"""The addresses of the model routes, and of whatever else stands beside them."""
_PARAMETERS = re.compile(r"[;?].*", re.DOTALL)
"""What belongs behind an address, written into it."""
_LONGEST = 300
_MOST_WORDS = 12
_ALIKE = 0.75


class UnknownRoute(NotFound):
    """There is no such address, although Flask would redirect it or find it all the same."""


class StoaRequest(HtmxAwareRequest):
    """The request, which knows its path as it was called: `path` has lost doubled slashes at its beginning."""

    def __init__(self, environ: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(environ, *args, **kwargs)  # type: ignore[no-untyped-call]
        self.called: str = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")


def init_app(app: Flask) -> None:
    """Refuse doubled and trailing slashes in the API's addresses."""
    app.request_class = StoaRequest
    app.before_request(_refuse_crooked)


def family(path: str) -> str | None:
    """The family of addresses a path belongs to: `v1`, `api/v1`, `api`, or None for a page's."""
    first, second = (*_words(path)[:2], "", "")[:2]
    if first == "api":
        return "api/v1" if second == "v1" else "api"
    return "v1" if first == "v1" else None


def is_api(path: str) -> bool:
    """Whether whoever calls this path expects JSON, be there something or not."""
    return bool(family(path)) or _words(path)[1:2] == ["v1"] or leads_to_a_model(current_app, path)


def leads_to_a_model(app: Flask, path: str) -> bool:
    """Whether the path ends like that of a model route: `/chat/completions`, `/openai/v1/models`."""
    words = _words(path)
    if not words:
        return False
    rules = [rule for rule in _rules(app) if rule.endpoint.partition(".")[0] in ("gateway", "gateway_api")]
    ends = {rule.rule.rpartition("/")[2] for rule in rules if PREFIX.match(rule.rule)}
    return words[-1] in ends or (_exact(app, words) or "").startswith("/v1/")


def not_found() -> str:
    """What to say of an address that was called and is none: what was meant, and what there is."""
    app, base_url = current_app, guards.settings().base_url
    path = _called()
    words = _words(path)
    parts = [f"There is no address {_shown(path)} here."]
    if meant := _meant(app, words):
        taken = _adapter(app).allowed_methods(meant)
        parts.append(f"Use {_verbs(taken)} {base_url}{meant}.")
    if family(path) == "api":
        parts.append(f"{base_url}{url_for('docs.page')} lists every address.")
    else:
        root = f"/{family(path) or 'v1'}/"
        rules = (rule for rule in _rules(app) if rule.rule.startswith(root))
        there = sorted(f"{_verbs(rule.methods or ())} {rule.rule}" for rule in rules)
        parts.append(f"Below {root} there are: {', '.join(there)}.")
        if root == "/v1/":
            parts.append(f"The base URL for OpenAI's clients is {base_url}/v1.")
    return " ".join(parts)


def method_not_allowed(error: MethodNotAllowed) -> str:
    """What to say of a method that an address does not take."""
    taken = error.valid_methods or ()
    how = f"Call {_verbs(taken)} {guards.settings().base_url}{request.path}"
    if "POST" in taken:
        how += " with a JSON body"
    shown = _shown(request.path)
    return f"There is no {shown} here. {how} and the header 'Authorization: Bearer <key>'."


def _called() -> str:
    return cast(StoaRequest, request).called


def _refuse_crooked() -> None:
    path = _called()
    if ("//" in path or path.endswith("/")) and is_api(path):
        raise UnknownRoute


# -- what was meant ------------------------------------------------------------------------------------------


def _words(path: str) -> list[str]:
    words = (_PARAMETERS.sub("", word).strip() for word in path[:_LONGEST].lower().split("/"))
    return [word for word in words if word][:_MOST_WORDS]


def _rules(app: Flask) -> list[Rule]:
    return [rule for rule in app.url_map.iter_rules() if rule.rule.startswith(("/v1/", "/api/"))]


def _adapter(app: Flask) -> MapAdapter:
    return app.url_map.bind("localhost")


def _meant(app: Flask, words: list[str]) -> str | None:
    exact = _exact(app, words)
    if exact or not words:
        return exact
    called = "/" + "/".join(words)
    fixed = sorted(rule.rule for rule in _rules(app) if "<" not in rule.rule)
    longer = [address for address in fixed if len(words) > 1 and address.startswith(f"{called}/")]
    same_end = [
        address for address in fixed if address.startswith("/v1/") and address.endswith(f"/{words[-1]}")
    ]
    # the last word must be alike, too: what stands before it is much of any address
    ends = difflib.get_close_matches(words[-1], {each.rpartition("/")[2] for each in fixed}, 3)
    ending = [each for each in fixed if each.rpartition("/")[2] in ends]
    alike = difflib.get_close_matches(called, ending, 1, _ALIKE)
    return next(iter((*longer, *same_end, *alike)), None)


def _exact(app: Flask, words: list[str]) -> str | None:
    """The address that the last words are, whatever stands before them."""
    adapter = _adapter(app)
    for start, word in enumerate(words):
        rest = "/".join(words[start:])
        own: tuple[str, ...] = (f"/{rest}",) if word in ("v1", "api") else ()
        for address in (*own, f"/v1/{rest}", f"/api/v1/{rest}"):
            if adapter.allowed_methods(address):
                return address
    return None


def _verbs(methods: Iterable[str]) -> str:
    return " or ".join(sorted(set(methods) - {"HEAD", "OPTIONS"}))


def _shown(path: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in path[:100])
    return f"{request.method} {shown}" + ("..." if len(path) > 100 else "")
