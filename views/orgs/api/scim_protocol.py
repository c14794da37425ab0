"""SCIM 2.0 (RFC 7643, 7644) for directories of organisations: the caller, what is served, resources, errors.

The tolerances are those that Microsoft Entra ID and Okta need. The protocol itself is scim2-models.
"""

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, ParamSpec, cast

from flask import Response, g, request
from flask_limiter import RateLimitExceeded
from pydantic import Field, ValidationError
from scim2_models import (
    AuthenticationScheme,
    Bulk,
    CaseExact,
    ChangePassword,
    ComplexAttribute,
    Context,
    EnterpriseUser,
    Error,
    ETag,
    Filter,
    ListResponse,
    Mutability,
    Patch,
    Reference,
    Required,
    Resource,
    ResourceType,
    SCIMException,
    ScimPolicy,
    ScimProvider,
    SearchRequest,
    ServiceProviderConfig,
    Sort,
    User,
)
from scim2_models.path import CompareOperator, Comparison, LogicalExpr, LogicalOperator

from models.core.db import db
from models.core.errors import DomainError
from views.web.body import BadJson, read_json
from views.web.guards import settings

P = ParamSpec("P")

MAX_PAGE = 200
MAX_OFFSET = 10**9
KINDS = frozenset({"uniqueness", "invalidValue", "invalidFilter", "tooMany"})
"""Codes of domain errors that are a `scimType`."""
MAX_FILTER = 2_000
"""Characters of a filter."""
MAX_SCANNED = 1_000
"""Resources that a filter without an index looks through."""
MAX_OPERATIONS = 200
"""Of a PATCH: each looks through all members of a group, and may name as many as it likes."""
MIMETYPE = "application/scim+json"


class DirectoryGroupMember(ComplexAttribute):
    """A user in a group. Groups in groups are not supported: directories send their members flat."""

    value: Annotated[str | None, Mutability.immutable, CaseExact.true] = None
    ref: Annotated[Reference[User] | None, Mutability.immutable] = Field(  # type: ignore[type-arg]
        None, serialization_alias="$ref", validation_alias="$ref"
    )
    type: Annotated[str | None, Mutability.immutable] = Field(None, examples=["User"])


class DirectoryGroup(Resource[Any]):
    """A group, with users as members only."""

    __schema__ = "urn:ietf:params:scim:schemas:core:2.0:Group"  # type: ignore[assignment]

    display_name: Annotated[str | None, Required.true] = None
    members: list[DirectoryGroupMember] | None = None


DirectoryUser = User[EnterpriseUser]

PROVIDER = ScimProvider(
    models=[User, EnterpriseUser, DirectoryGroup],
    resource_types=[
        ResourceType.from_resource(DirectoryUser),
        ResourceType(
            id="Group",
            name="Group",
            description="Fills the team of its name",
            endpoint="/Groups",
            schema_=DirectoryGroup.__schema__,
        ),
    ],
    config=ServiceProviderConfig(
        patch=Patch(supported=True),
        bulk=Bulk(supported=False, max_operations=0, max_payload_size=0),
        filter=Filter(supported=True, max_results=MAX_PAGE),
        change_password=ChangePassword(supported=False),
        sort=Sort(supported=False),
        etag=ETag(supported=False),
        authentication_schemes=[
            AuthenticationScheme(
                type=AuthenticationScheme.Type.oauthbearertoken,
                name="Bearer token",
                description="A token that an owner of the organisation makes in its settings",
                primary=True,
            )
        ],
    ),
    policy=ScimPolicy(
        unknown=ScimPolicy.Unknown.ignore,
        remove_value_as_filter=ScimPolicy.RemoveValue.apply,
        unmatched_path_filter=ScimPolicy.UnmatchedPathFilter.create,
    ),
)


@cache
def generic(message: Any, model: Any) -> Any:
    """A message of a model, such as `PatchOp[User]`. Making one takes longer than answering a request."""
    return message[model]


# -- requests and responses ----------------------------------------------------------------------------------


def payload() -> dict[str, Any]:
    """The body of the request, a JSON object. Raises BadJson."""
    found = read_json()
    if not isinstance(found, dict):
        raise BadJson
    return found


def query_of(model: Any) -> SearchRequest[Any]:
    """The query of the request. Raises ValidationError, and DomainError (400)."""
    names = ("filter", "attributes", "excludedAttributes", "startIndex", "count")
    values = {name: request.args[name] for name in names if request.args.get(name)}
    _check_filter(values)
    found = generic(SearchRequest, model).model_validate(values, scim_ctx=Context.SEARCH_REQUEST)
    return cast("SearchRequest[Any]", found)


def searched(model: Any) -> SearchRequest[Any]:
    """The search in the body of the request. Raises BadJson or ValidationError, and DomainError (400)."""
    values = payload()
    _check_filter(values)
    found = generic(SearchRequest, model).model_validate(values, scim_ctx=Context.SEARCH_REQUEST)
    return cast("SearchRequest[Any]", found)


def _check_filter(values: dict[str, Any]) -> None:
    if len(str(values.get("filter") or "")) > MAX_FILTER:
        raise DomainError(
            f"A filter has at most {MAX_FILTER:,} characters.", code="invalidFilter", status=400
        )


def equalities(search: SearchRequest[Any], names: dict[str, str]) -> tuple[dict[str, str], bool]:
    """What the filter says of the attributes in `names` (lower case), {column: text}, as far as it is equalities joined by
    "and"; and whether that is all it says."""
    if search.filter is None:
        return {}, True
    node = search.filter.ast
    joined = isinstance(node, LogicalExpr) and node.op is LogicalOperator.and_
    terms = node.terms if isinstance(node, LogicalExpr) and joined else (node,)
    found: dict[str, str] = {}
    for term in terms:
        if isinstance(term, Comparison) and term.op is CompareOperator.eq and isinstance(term.value, str):
            path = term.attr_path
            # text in the database has no NUL
            if path.sub_attr is None and path.attr.lower() in names and "\0" not in term.value:
                found.setdefault(names[path.attr.lower()], term.value)
    return found, len(found) == len(terms)


def check_scanned(total: int) -> None:
    """Raise DomainError (400, `tooMany`) if a filter would look through too many resources."""
    if total > MAX_SCANNED:
        raise DomainError(
            f"This filter would look through {total:,} resources; the most is {MAX_SCANNED:,}."
            ' Filter by userName, displayName, externalId or id with "eq", or list all pages.',
            code="tooMany",
            status=400,
        )


def window(search: SearchRequest[Any]) -> tuple[int, int]:
    """Offset and length of the requested page."""
    count = MAX_PAGE if search.count is None else search.count
    return min(max(1, search.start_index or 1) - 1, MAX_OFFSET), max(0, min(count, MAX_PAGE))


def listed(model: Any, total: int, resources: Sequence[Any], search: SearchRequest[Any]) -> Response:
    """The response of a list."""
    answer = generic(ListResponse, model)(
        total_results=total,
        start_index=max(1, search.start_index or 1),
        items_per_page=len(resources),
        resources=list(resources),
    )
    return _json(answer.model_dump_json(scim_ctx=Context.RESOURCE_QUERY_RESPONSE, response_parameters=search))


def one(resource: Any, *, created: bool = False, search: SearchRequest[Any] | None = None) -> Response:
    """The response of one resource; `created`: with status 201."""
    context = Context.RESOURCE_CREATION_RESPONSE if created else Context.RESOURCE_QUERY_RESPONSE
    response = _json(resource.model_dump_json(scim_ctx=context, response_parameters=search))
    response.status_code = 201 if created else 200
    if resource.meta and resource.meta.location:
        response.headers["Location" if created else "Content-Location"] = str(resource.meta.location)
    return response


def location(kind: str, id: str = "") -> str:
    """The URL of a resource, below the name of the organisation that the caller uses."""
    return f"{settings().base_url}/scim/v2/{g.scim_key}/{kind}{'/' if id else ''}{id}"


def _json(text: str, status: int = 200) -> Response:
    response = Response(text, status, mimetype=MIMETYPE)
    response.headers["Cache-Control"] = "no-store"
    return response


# -- errors --------------------------------------------------------------------------------------------------


def refused(error: Error) -> Response:
    """The response of an error. Rolls back."""
    db.session.rollback()
    response = _json(error.model_dump_json(), error.status or 400)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="SCIM"'
    return response


def refusal(error: Exception) -> Response:
    """The response of an exception that a route raised. Raises any other than those of the protocol and the domain."""
    if isinstance(error, SCIMException):
        return refused(error.to_error())
    if isinstance(error, ValidationError):
        return refused(Error.from_validation_errors(error)[0])
    if isinstance(error, DomainError):
        kind = error.code if error.code in KINDS else None
        return refused(Error(status=error.status, scim_type=kind, detail=error.message))
    if isinstance(error, BadJson):
        return refused(Error(status=400, scim_type="invalidSyntax", detail="The body must be a JSON object."))
    if isinstance(error, RateLimitExceeded):
        return refused(Error(status=429, detail="Too many requests. Wait a minute."))
    raise error
