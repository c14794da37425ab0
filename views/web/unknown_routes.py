"""Errors for unknown API routes and methods, with a suggestion and the list of routes.

Nothing is redirected: clients repeat a redirected POST as a GET, or not at all.
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

STATEFUL = re.compile(
    r"/v1/(action-items|assistants|auth|blobs|conversations|infrastructure|oauth|projects|runners|snapshots|threads|workspaces)\b"
)
PROJECTS = re.compile(
    r"/v1/(?:action-items|auth|blobs|infrastructure|oauth|projects|runners|snapshots|workspaces)(?:/|$)"
)
"""Routes of projects, whose errors have an envelope of their own."""
PREFIX = re.compile(r"/*(?:api/+)?v1(?:/|$)", re.IGNORECASE)
"""Prefix of the model routes, and of all other routes below it."""
_PARAMETERS = re.compile(r"[;?].*", re.DOTALL)
"""Query or parameters that a client put into the path."""
_MAX_PATH_LENGTH = 300
_MAX_SEGMENTS = 12
_SIMILARITY = 0.75
_NUL_FREE = frozenset({"orgs", "orgs_api", "budgets", "budget_requests_api", "scim"})
"""Blueprints that leave NUL in paths to this module; the others answer with the bodies of their contract."""


class UnknownRoute(NotFound):
    """No such route, although Flask would redirect to one or match it."""


class StoaRequest(HtmxAwareRequest):
    """A request that keeps the original path in `raw_path`; `path` loses doubled leading slashes."""

    def __init__(self, environ: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(environ, *args, **kwargs)  # type: ignore[no-untyped-call]
        self.raw_path: str = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")


def init_app(app: Flask) -> None:
    """Reject doubled and trailing slashes in API paths, and NUL in those of organisations."""
    app.request_class = StoaRequest
    app.before_request(_reject_malformed)


def family(path: str) -> str | None:
    """The API family of a path: `v1`, `api/v1`, `api`, or None for pages."""
    first, second = (*_segments(path)[:2], "", "")[:2]
    if first == "api":
        return "api/v1" if second == "v1" else "api"
    return "v1" if first == "v1" else None


def is_api(path: str) -> bool:
    """Whether clients of this path expect JSON, even if no such route exists."""
    return bool(family(path)) or _segments(path)[1:2] == ["v1"] or resembles_model_route(current_app, path)


def resembles_model_route(app: Flask, path: str) -> bool:
    """Whether the path ends like a model route: `/chat/completions`, `/openai/v1/models`."""
    segments = _segments(path)
    if not segments:
        return False
    rules = [rule for rule in _rules(app) if rule.endpoint.startswith("gateway")]
    ends = {rule.rule.rpartition("/")[2] for rule in rules if PREFIX.match(rule.rule)}
    return segments[-1] in ends or (_exact(app, segments) or "").startswith("/v1/")


def not_found() -> str:
    """The message for an unknown route: the suggested one, and the list of routes."""
    app, base_url = current_app, guards.settings().base_url
    path = _raw_path()
    segments = _segments(path)
    parts = [f"Unknown route: {_shown(path)}."]
    if suggestion := _suggestion(app, segments):
        methods = _adapter(app).allowed_methods(suggestion)
        parts.append(f"Use {_verbs(methods)} {base_url}{suggestion}.")
    if family(path) == "api":
        parts.append(f"All routes are listed at {base_url}{url_for('docs.page')}.")
    else:
        root = f"/{family(path) or 'v1'}/"
        # those of one conversation, thread or assistant are many: their lists stand for them
        rules = (rule for rule in _rules(app) if rule.rule.startswith(root) and not STATEFUL.match(rule.rule))
        existing = sorted(f"{_verbs(rule.methods or ())} {rule.rule}" for rule in rules)
        parts.append(f"Routes below {root}: {', '.join(existing)}.")
        if root == "/v1/":
            parts.append(
                f"Those of /v1/assistants, /v1/conversations, /v1/projects and /v1/threads: {base_url}{url_for('docs.page')}."
            )
            parts.append(f"The base URL for OpenAI clients is {base_url}/v1.")
    return " ".join(parts)


def method_not_allowed(error: MethodNotAllowed) -> str:
    """The message for an unsupported method."""
    methods = error.valid_methods or ()
    how = f"Call {_verbs(methods)} {guards.settings().base_url}{request.path}"
    if "POST" in methods:
        how += " with a JSON body"
    return f"Unknown route: {_shown(request.path)}. {how} and the header 'Authorization: Bearer <key>'."


def _raw_path() -> str:
    return cast(StoaRequest, request).raw_path


def _reject_malformed() -> None:
    path = _raw_path()
    if ("//" in path or path.endswith("/")) and is_api(path):
        raise UnknownRoute
    if "\0" in path and request.blueprint in _NUL_FREE:
        raise UnknownRoute  # PostgreSQL text holds no NUL, so nothing has such a name


# -- suggestion ----------------------------------------------------------------------------------------------


def _segments(path: str) -> list[str]:
    segments = (
        _PARAMETERS.sub("", segment).strip() for segment in path[:_MAX_PATH_LENGTH].lower().split("/")
    )
    return [segment for segment in segments if segment][:_MAX_SEGMENTS]


def _rules(app: Flask) -> list[Rule]:
    return [rule for rule in app.url_map.iter_rules() if rule.rule.startswith(("/v1/", "/api/"))]


def _adapter(app: Flask) -> MapAdapter:
    return app.url_map.bind("localhost")


def _suggestion(app: Flask, segments: list[str]) -> str | None:
    exact = _exact(app, segments)
    if exact or not segments:
        return exact
    called = "/" + "/".join(segments)
    fixed = sorted(rule.rule for rule in _rules(app) if "<" not in rule.rule)
    longer = [address for address in fixed if len(segments) > 1 and address.startswith(f"{called}/")]
    same_end = [
        address for address in fixed if address.startswith("/v1/") and address.endswith(f"/{segments[-1]}")
    ]
    # the last segment must be similar too: prefixes make most paths similar
    ends = difflib.get_close_matches(segments[-1], {each.rpartition("/")[2] for each in fixed}, 3)
    ending = [each for each in fixed if each.rpartition("/")[2] in ends]
    similar = difflib.get_close_matches(called, ending, 1, _SIMILARITY)
    return next(iter((*longer, *same_end, *similar)), None)


def _exact(app: Flask, segments: list[str]) -> str | None:
    """The route that a suffix of the path matches, whatever precedes it."""
    adapter = _adapter(app)
    for start, segment in enumerate(segments):
        rest = "/".join(segments[start:])
        own: tuple[str, ...] = (f"/{rest}",) if segment in ("v1", "api") else ()
        for address in (*own, f"/v1/{rest}", f"/api/v1/{rest}"):
            if adapter.allowed_methods(address):
                return address
    return None


def _verbs(methods: Iterable[str]) -> str:
    return " or ".join(sorted(set(methods) - {"HEAD", "OPTIONS"}))


def _shown(path: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in path[:100])
    return f"{request.method} {shown}" + ("..." if len(path) > 100 else "")
