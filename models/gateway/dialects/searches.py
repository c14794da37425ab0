"""The dialect of search helpers: `/api/v1/web-search` and `/api/v1/docs-search` (contract 2.5)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from models.core.errors import DomainError
from models.core.strict_models import Body, Count, InvalidBody, Missing, parse
from models.gateway.bill import Bill
from models.gateway.call_errors import CallRefused, ProviderError
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import (
    CallRequest,
    Dialect,
    ErrorAnswer,
    ErrorContext,
    IncomingRequest,
    MissingApiKey,
    Reply,
    UnreadableBody,
    WholeAnswer,
)
from models.gateway.dialects.error_shapes import answer_message
from models.gateway.dialects.reading import read_passed_answer
from models.gateway.dialects.translating import CHAT
from models.gateway.lenient_json import write
from models.gateway.route import Route
from models.gateway.routing import Router
from models.gateway.search_tools.search_providers import CREDITS, DOCS, WEB
from models.gateway.upstream import UpstreamError
from models.ledger.holds import Admission, LedgerUnavailable
from models.ledger.payers import payer_hint

Query = Annotated[str, Field(min_length=1, max_length=20_000, pattern=r"^[^\x00]*$")]
RepoUrl = Missing[Annotated[str, Field(max_length=2_000)]]


class WebSearchBody(Body):
    """A search of the web."""

    query: Query
    depth: Missing[Literal["standard", "deep"]] = "standard"
    repoUrl: RepoUrl = Field(None, description="Who has this repository pays")


class DocsSearchBody(Body):
    """A search in the documentation of a library."""

    libraryTitle: Query = Field(examples=["react"])
    topic: Missing[Annotated[str, Field(max_length=20_000)]] = None
    maxTokens: Missing[Annotated[Count, Field(gt=0)]] = None
    repoUrl: RepoUrl = Field(None, description="Who has this repository pays")


class InvalidSearch(DomainError):
    """The body does not fit. `tree` has its problems by key."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        super().__init__("Invalid request body")
        self.tree = tree


class SearchDialect(Dialect):
    """One kind of search. The body comes first, then the caller, then the credits."""

    body_first = True
    model = ""
    kind = ""
    failed = ""
    """What the client gets if the service fails."""

    def parse(self, body: Any) -> tuple[dict[str, Any], str | None]:
        """What to search, and the repository. Raises InvalidBody."""
        raise NotImplementedError

    def nothing(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """What the client gets if nothing was found."""
        raise NotImplementedError

    def found(self, text: str) -> dict[str, Any]:
        """What the client gets of a text that was found."""
        raise NotImplementedError

    def check_body(self, body: Any) -> None:
        try:
            self.parse(body)
        except InvalidBody as error:
            raise InvalidSearch(error.tree) from None

    def read(self, received: IncomingRequest) -> CallRequest:
        query, repo_url = self.parse(received.body)
        size = len(received.raw)
        call = Call(self.model, False, 1, 0, size // 3, size, query, format=self.kind)
        headers = received.headers
        hint = payer_hint(headers.get("x-stoa-org"), repo_url or headers.get("x-stoa-repo"))
        return self.request(received, call, payer=hint)

    def route(self, routes: Router, request: CallRequest, call: Call) -> Route:
        provider = routes.searches.find(self.kind)
        price = routes.searches.price(credits_of(call.body))
        return Route(provider, call.model, call.model, price, kind=self.kind)

    def stored_input(self, call: Call, size: int) -> tuple[Any, dict[str, Any] | None]:
        return [{"role": "user", "content": call.body["query"]}], None

    def count_text(self, call: Call) -> int:
        return 0

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        return 0, {}

    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
        return read_passed_answer(raw, route, headers, route.provider.meter(call))

    def stored_answer(self, call: Call, answers: Sequence[WholeAnswer]) -> Any:
        return answers[0].meter.answer

    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        text = answers[0].meter.answer
        if not text:
            return Reply(write(self.nothing(call.body)))
        return Reply(write({**self.found(text), "creditsUsed": credits_of(call.body)}))

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        match error:
            case UnreadableBody():
                return ErrorAnswer(400, {"error": "Invalid JSON in request body"})
            case InvalidSearch():
                return ErrorAnswer(400, {"error": "Invalid request body", "details": error.tree})
            case MissingApiKey():
                return ErrorAnswer(401, {"message": "Unauthorized"})
            case CallRefused(admission=admission) if admission.outcome == "unknown_key":
                return ErrorAnswer(401, {"message": "Invalid Codebuff API key"})
            case DomainError(status=401, message=text):
                return ErrorAnswer(401, {"message": text})
            case CallRefused(admission=admission) if admission.outcome in ("out_of_credits", "insufficient"):
                return ErrorAnswer(402, _insufficient(admission))
            case LedgerUnavailable():
                return ErrorAnswer(500, {"error": "Failed to charge credits"})
            case ProviderError() | UpstreamError():
                return ErrorAnswer(500, {"error": self.failed})
        answer = CHAT.error(error, context)
        return ErrorAnswer(answer.status, {"error": answer_message(answer.body)}, answer.headers)


class WebSearchDialect(SearchDialect):
    """A search of the web."""

    door = kind = WEB
    model = "stoa/web-search"
    failed = "Error performing web search"

    def parse(self, body: Any) -> tuple[dict[str, Any], str | None]:
        given = parse(WebSearchBody, body)
        return {"query": given.query, "depth": given.depth or "standard"}, given.repoUrl

    def nothing(self, query: Mapping[str, Any]) -> dict[str, Any]:
        return {"error": f'No search results found for "{query["query"]}"'}

    def found(self, text: str) -> dict[str, Any]:
        return {"result": text}


class DocsSearchDialect(SearchDialect):
    """A search in the documentation of a library."""

    door = kind = DOCS
    model = "stoa/docs-search"
    failed = "Error fetching documentation"

    def parse(self, body: Any) -> tuple[dict[str, Any], str | None]:
        given = parse(DocsSearchBody, body)
        query = {"query": given.libraryTitle, "topic": given.topic, "max_tokens": given.maxTokens}
        return query, given.repoUrl

    def nothing(self, query: Mapping[str, Any]) -> dict[str, Any]:
        found = f'No documentation found for "{query["query"]}"'
        return {"error": f'{found} with topic "{query["topic"]}"' if query["topic"] else found}

    def found(self, text: str) -> dict[str, Any]:
        return {"documentation": text}


def credits_of(query: Mapping[str, Any]) -> int:
    """What a search costs."""
    return CREDITS[query.get("depth") or "standard"]


def _insufficient(admission: Admission) -> dict[str, Any]:
    reset = admission.next_quota_reset
    return {
        "message": "Insufficient credits",
        "totalRemaining": admission.balance,
        "required": max(admission.hold, admission.minimum, 1),
        "nextQuotaReset": reset.isoformat().replace("+00:00", "Z") if reset else None,
    }
