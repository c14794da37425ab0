"""The OpenAPI 3.1 document of every JSON route, and the page to read it. A test walks the routes and finds each here."""

from functools import cache
from typing import Any

from flask import Blueprint, Response, jsonify, request

from models.store.definition import components
from views.guards import settings
from views.htmx import render

bp = Blueprint("docs", __name__)

Schema = dict[str, Any]


def text(description: str = "", **more: Any) -> Schema:
    """A string."""
    return {"type": "string", **({"description": description} if description else {}), **more}


def whole(description: str = "", **more: Any) -> Schema:
    """An integer."""
    return {"type": "integer", **({"description": description} if description else {}), **more}


def number(description: str = "", **more: Any) -> Schema:
    """A number."""
    return {"type": "number", **({"description": description} if description else {}), **more}


def flag(description: str = "") -> Schema:
    """A boolean."""
    return {"type": "boolean", **({"description": description} if description else {})}


def moment(description: str = "") -> Schema:
    """An ISO 8601 moment, UTC, milliseconds, `Z`."""
    return text(description, format="date-time")


def maybe(schema: Schema) -> Schema:
    """The schema, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def many(schema: Schema, **more: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": schema, **more}


def record(required: str = "", **properties: Schema) -> Schema:
    """An object; `required` names its required keys, parted by spaces."""
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required.split()
    return schema


ERROR = record(
    "error",
    error=text("What is wrong"),
    details=text("Where the error is one of a few words: the cause, and what to do"),
)
MESSAGE = record("message", message=text("What is wrong, for the user"))
DETAILS = record("error", error=text(), details={"type": "object", "description": "Problems by key, nested"})
OPENAI_ERROR = record(
    "error",
    error=record("message type", message=text(), type=text(), param=maybe(text()), code=maybe(text())),
)
BALANCE = record(
    "free referral purchase admin organization",
    free=whole(),
    referral=whole(),
    purchase=whole(),
    admin=whole(),
    organization=whole(),
)
CHAT_MESSAGE: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": text("system, developer, user, assistant or tool"),
        "content": {
            "anyOf": [text(), many({"type": "object"}), {"type": "null"}],
            "description": "Text, or a list of parts",
        },
        "tool_calls": many({"type": "object"}),
        "tool_call_id": text(),
    },
}
CHAT: Schema = record(
    "model messages",
    model=text("As GET /v1/models lists it", minLength=1, examples=["stoa/demo"]),
    messages=many(CHAT_MESSAGE, minItems=1),
    stream=flag("Answer as server-sent events"),
    stream_options=record(include_usage=flag("Send the chunk with the usage")),
    max_tokens=whole(minimum=1, maximum=2**31 - 1),
    max_completion_tokens=whole(minimum=1, maximum=2**31 - 1),
    n=whole("How many answers", minimum=1, maximum=128),
    tools=many({"type": "object"}),
    temperature=number(),
    stop={"anyOf": [text(), many(text())]},
)
COMPLETION = record(
    "id object created model choices",
    id=text(),
    object=text(),
    created=whole("Seconds since 1970"),
    model=text("The model that answered"),
    choices=many({"type": "object"}),
    usage=record(
        prompt_tokens=whole(),
        completion_tokens=whole(),
        total_tokens=whole(),
        cost=number("Provider dollars of the call; credits are cost x 100 x (1 + margin), rounded half up"),
        cost_details={"type": "object"},
    ),
)
STEP = record(
    "stepNumber",
    id=text("Kept when it is a free UUID (only within FINISH)", format="uuid"),
    stepNumber=whole(minimum=0, maximum=2**31 - 1),
    credits=number(minimum=0),
    childRunIds=many(text()),
    messageId=maybe(text()),
    status=text(enum=["running", "completed", "skipped"]),
    errorMessage=text(),
    startTime=moment("Ends in Z"),
)
PRICING = record(
    prompt=text("Input"),
    completion=text("Output"),
    input_cache_read=text(),
    input_cache_write=text(),
    request=text("Of a call, beside its tokens"),
)
MODEL = record(
    "id object created owned_by type",
    id=text("What a call names"),
    object=text(),
    created=whole(),
    owned_by=text("The provider it leads to"),
    type=text(enum=["chat"]),
    context_window=maybe(whole("Tokens")),
    pricing=maybe({**PRICING, "description": "Dollars per token; null where only the provider knows"}),
)
RUN_ID = {"name": "runId", "in": "path", "required": True, "schema": text("The run, as START answered it")}


def op(
    method: str,
    path: str,
    tag: str,
    summary: str,
    *,
    auth: str = "none",
    description: str = "",
    body: Schema | None = None,
    parameters: list[dict[str, Any]] | None = None,
    ok: tuple[int, str, Schema | None] = (200, "Done", None),
    errors: dict[int, tuple[str, Schema]] | None = None,
    kind: str = "application/json",
    body_kind: str = "application/json",
) -> tuple[str, str, dict[str, Any]]:
    """One operation. `auth` is none, key, cookie or both; `errors` maps a status to its words and shape; `kind` and
    `body_kind` are the media types of answer and body."""
    if auth != "none":
        errors = _or_suspended(path, errors or {})
    status, words, schema = ok
    responses: dict[str, Any] = {
        str(status): {"description": words, **({"content": {kind: {"schema": schema}}} if schema else {})}
    }
    for code, (what, shape) in (errors or {}).items():
        responses[str(code)] = {"description": what, "content": {"application/json": {"schema": shape}}}
    security: dict[str, list[dict[str, list[str]]]] = {
        "none": [],
        "key": [{"key": []}],
        "cookie": [{"cookie": []}],
        "both": [{"cookie": []}, {"key": []}],
    }
    operation: dict[str, Any] = {
        "tags": [tag],
        "summary": summary,
        "operationId": f"{method}_{path}".replace("/", "_")
        .replace("{", "")
        .replace("}", "")
        .replace("-", "_"),
        "security": security[auth],
        "responses": responses,
    }
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": {body_kind: {"schema": body}}}
    return method, path, operation


def _or_suspended(path: str, errors: dict[int, tuple[str, Schema]]) -> dict[int, tuple[str, Schema]]:
    """Every operation that takes a credential refuses that of a banned account."""
    words, shape = errors.get(403, ("", None))
    told = OPENAI_ERROR if path.startswith("/v1/") else MESSAGE
    if shape is None or shape is told:
        return {**errors, 403: ("The account is suspended", told)}
    return {**errors, 403: (f"{words}; or the account is suspended", {"anyOf": [shape, told]})}


NO_KEY = {401: ("No key, or one that is unknown, expired or revoked", OPENAI_ERROR)}
CHAT_ERRORS: dict[int, tuple[str, Schema]] = {
    400: ("The body cannot be used, or the model has no price here, or cannot chat", OPENAI_ERROR),
    401: ("No key, or one that is unknown, expired or revoked", OPENAI_ERROR),
    402: ("Not enough credits for this call beside those in flight", OPENAI_ERROR),
    403: ("The account is suspended", OPENAI_ERROR),
    404: ("No configured provider serves the model", OPENAI_ERROR),
    413: ("The body is larger than 20 MB", OPENAI_ERROR),
    429: ("The provider limits its callers; Retry-After says how long", OPENAI_ERROR),
    502: ("The provider could not be reached, or failed; nothing is charged", OPENAI_ERROR),
    503: ("The ledger is not reachable", OPENAI_ERROR),
    504: ("The provider did not answer in time; nothing is charged", OPENAI_ERROR),
}


def query(name: str, description: str, *, required: bool = True) -> dict[str, Any]:
    """A query parameter that is text."""
    return {"name": name, "in": "query", "required": required, "description": description, "schema": text()}


@cache
def operations() -> tuple[tuple[str, str, dict[str, Any]], ...]:
    """Every operation: method, path, what OpenAPI says of it."""
    return (
        *_gateway(),
        *_store(),
        *_runs(),
        *_usage(),
        *_accounts(),
        *_sign_in(),
        *_publishers(),
        *_publishing(),
        *_server(),
    )


def _gateway() -> tuple[Any, ...]:
    header = {
        "name": "x-stoa-run-id",
        "in": "header",
        "required": False,
        "description": "Ties the call to a running run of yours",
        "schema": text(),
    }
    model = {"name": "id", "in": "path", "required": True, "schema": text("May contain slashes")}
    metadata = record(
        "run_id",
        run_id=text("A running run of yours"),
        client_id=text(),
        n=whole("Answers, not streamed", minimum=1),
    )
    return (
        op(
            "post",
            "/v1/chat/completions",
            "Gateway",
            "Complete a chat",
            auth="key",
            description="Any OpenAI client. The balance is checked and held before the call leaves; the call is billed"
            " before the chunk with its usage reaches you. With stream the answer is text/event-stream. Pages of other"
            " origins may call every address below /v1 and /api/v1, as the operator allows.",
            body=CHAT,
            parameters=[header],
            ok=(200, "The completion, or its stream", COMPLETION),
            errors=CHAT_ERRORS,
        ),
        op(
            "get",
            "/v1/models",
            "Gateway",
            "List the models",
            auth="key",
            ok=(
                200,
                "The models that can be called for chat completions here",
                record("object data", object=text(), data=many(MODEL)),
            ),
            errors=NO_KEY,
        ),
        op(
            "get",
            "/v1/models/{id}",
            "Gateway",
            "Look one model up",
            auth="key",
            parameters=[model],
            ok=(200, "The model", MODEL),
            errors={**NO_KEY, 404: ("No such model here", OPENAI_ERROR)},
        ),
        op(
            "post",
            "/api/v1/chat/completions",
            "Gateway",
            "Complete a chat within a run",
            auth="key",
            description="The door of the Codebuff SDK. x-openrouter-api-key brings a key of your own, which then pays.",
            body={
                **CHAT,
                "properties": {**CHAT["properties"], "codebuff_metadata": metadata},
            },
            ok=(200, "The completion, or its stream", COMPLETION),
            errors={
                400: ("Not JSON, no run, a foreign or finished run, or a body that cannot be used", MESSAGE),
                401: ("No key, or an unknown one", MESSAGE),
                402: ("Out of credits; says when the free ones renew", MESSAGE),
                403: ("The account is suspended", MESSAGE),
                404: ("No configured provider serves the model", {"type": "object"}),
                413: ("The body is larger than 20 MB", {"type": "object"}),
                502: ("The provider failed; nothing is charged", {"type": "object"}),
            },
        ),
        op(
            "post",
            "/api/v1/token-count",
            "Gateway",
            "Count the tokens of a conversation",
            auth="key",
            description="Free, and never sent to a provider.",
            body=record("messages", messages=many({"type": "object"}), system=text(), model=text()),
            ok=(200, "The count", record("inputTokens", inputTokens=whole())),
            errors={
                400: ("The body cannot be used", {"type": "object"}),
                401: ("No key, or an unknown one", MESSAGE),
            },
        ),
    )


def _store() -> tuple[Any, ...]:
    figures = {
        "usage_count": whole("Completed runs that have a settled call, without the publisher's own"),
        "weekly_runs": whole("Those started in the last seven days"),
        "weekly_spent": number("Dollars"),
        "total_spent": number("Dollars"),
        "avg_cost_per_invocation": number("Dollars"),
        "unique_users": whole(),
        "last_used": moment("Absent where it never ran"),
    }
    listed = record(
        "id name publisher version created_at tags version_stats " + " ".join(list(figures)[:-1]),
        id=text(),
        name=text("As defined, else the id"),
        description=text("Absent where there is none"),
        publisher=record(
            "id name verified avatar_url",
            id=text(),
            name=text(),
            verified=flag(),
            avatar_url=maybe(text()),
        ),
        version=text("The latest that is not yanked"),
        created_at=moment("Of that version"),
        **figures,
        version_stats={
            "type": "object",
            "description": "By version, of those that ran: weekly_runs, weekly_dollars, total_dollars,"
            " total_invocations, avg_cost_per_run, unique_users, last_used",
        },
        tags=many(text()),
    )
    node = record(
        "fullId agentId publisher version displayName spawnerPrompt isAvailable children isCyclic",
        fullId=text("publisher/agent@version"),
        agentId=text(),
        publisher=text(),
        version=text(),
        displayName=text(),
        spawnerPrompt=maybe(text()),
        isAvailable=flag("False where it is not published, or stands above itself"),
        children=many({"type": "object"}, description="Nodes like this one"),
        isCyclic=flag(),
    )
    place = [
        {"name": name, "in": "path", "required": True, "schema": text(words)}
        for name, words in (
            ("publisherId", ""),
            ("agentId", ""),
            ("version", "As 1.0.0, or latest: the highest that is not yanked"),
        )
    ]
    missing: dict[int, tuple[str, Schema]] = {404: ("No such publisher, or no such agent of it", ERROR)}
    kept = "Kept as it is sent: what is published shows at once, figures within seconds. Cache-Control lets clients"
    found = []
    for door in ("/api/agents", "/api/v1/agents"):
        found += [
            op(
                "get",
                door,
                "Store",
                "List the agents",
                description=kept
                + " and proxies keep it for minutes; revalidate with the ETag to have it fresh."
                " Most spent in seven days first; of one publisher the hundred most used, unless the operator says"
                " otherwise. The route of a publisher's agents has all of them.",
                ok=(200, "The agents", many(listed)),
            ),
            op(
                "get",
                f"{door}/metrics",
                "Store",
                "The agents' figures",
                description="By publisher/agent, of those that ran. Kept as the list is.",
                ok=(
                    200,
                    "The figures",
                    {
                        "type": "object",
                        "additionalProperties": record(" ".join(list(figures)[:-1]), **figures),
                    },
                ),
            ),
            op(
                "get",
                f"{door}/{{publisherId}}/{{agentId}}/{{version}}",
                "Store",
                "Read an agent's definition",
                parameters=place,
                ok=(
                    200,
                    "The version",
                    record(
                        "id version publisherId data createdAt updatedAt",
                        id=text(),
                        version=text(),
                        publisherId=text(),
                        data={"type": "object", "description": "The definition"},
                        createdAt=moment(),
                        updatedAt=moment(),
                    ),
                ),
                errors=missing,
            ),
            op(
                "get",
                f"{door}/{{publisherId}}/{{agentId}}/{{version}}/dependencies",
                "Store",
                "What an agent may spawn",
                description="To five levels. A tree of more than 2,000 agents is cut, and says truncated.",
                parameters=place,
                ok=(
                    200,
                    "The tree",
                    record(
                        "root totalAgents maxDepth hasCycles",
                        root=node,
                        totalAgents=whole("Distinct ones"),
                        maxDepth=whole("The root is 0"),
                        hasCycles=flag(),
                        truncated=flag("Only where agents were left out"),
                    ),
                ),
                errors={**missing, 500: ("A definition names an agent that cannot be followed", ERROR)},
            ),
            op(
                "get",
                f"{door.replace('agents', 'publishers')}/{{publisherId}}/agents",
                "Store",
                "List a publisher's agents",
                description="All that have a version to run, a hundred at a time, by id.",
                parameters=[
                    place[0],
                    {
                        "name": "after",
                        "in": "query",
                        "required": False,
                        "schema": text("`next` of the page before"),
                    },
                ],
                ok=(
                    200,
                    "A page",
                    record(
                        "agents next",
                        agents=many(listed),
                        next=maybe(text("The id to go on after; null where none follow")),
                    ),
                ),
                errors={404: ("No such publisher", ERROR)},
            ),
        ]
    return tuple(found)


def _runs() -> tuple[Any, ...]:
    start = record(
        "action agentId",
        action=text(const="START"),
        agentId=text("publisher/agent@version, or a local id"),
        ancestorRunIds=many(text(), description="From the root to the parent"),
    )
    finish = record(
        "action runId status totalSteps directCredits totalCredits",
        action=text(const="FINISH"),
        runId=text(),
        status=text(enum=["completed", "failed", "cancelled"]),
        totalSteps=whole(minimum=0, maximum=2**31 - 1),
        directCredits=number(minimum=0),
        totalCredits=number("Its own and those of what it spawned", minimum=0),
        errorMessage=text(),
        steps=many(STEP, maxItems=1000),
    )
    errors: dict[int, tuple[str, Schema]] = {
        400: ("Not JSON, or of the wrong shape", DETAILS),
        401: ("No key", ERROR),
        404: ("Unknown key", ERROR),
        409: ("Too many runs are not finished, or the run has all the steps it may have", ERROR),
        413: ("The request, or a step, is too large", ERROR),
        429: ("The account records too much; Retry-After says how long", ERROR),
    }
    return (
        op(
            "post",
            "/api/v1/agent-runs",
            "Runs",
            "Start or finish a run",
            auth="key",
            body={"oneOf": [start, finish], "discriminator": {"propertyName": "action"}},
            ok=(
                200,
                "START answers runId, FINISH success",
                {"anyOf": [record("runId", runId=text()), record("success", success=flag())]},
            ),
            errors={**errors, 403: ("The agent was taken down", ERROR)},
        ),
        op(
            "post",
            "/api/v1/agent-runs/{runId}/steps",
            "Runs",
            "Add a step to a run",
            auth="key",
            parameters=[RUN_ID],
            body=STEP,
            ok=(200, "The step", record("stepId", stepId=text())),
            errors={
                **errors,
                403: ("The run is somebody else's", ERROR),
                404: ("Unknown key, or no such run", ERROR),
                500: ("The run has a step of this number already", ERROR),
            },
        ),
    )


def _usage() -> tuple[Any, ...]:
    personal = record(
        "type usage remainingBalance balanceBreakdown next_quota_reset",
        type=text(const="usage-response"),
        usage=whole("Credits used since the last reset"),
        remainingBalance=whole(),
        balanceBreakdown={"type": "object"},
        next_quota_reset=maybe(moment()),
        autoTopupEnabled=flag(),
    )
    return (
        op(
            "post",
            "/api/v1/usage",
            "Usage",
            "What is left, for command lines",
            auth="key",
            body=record(
                "fingerprintId", fingerprintId=text(), authToken=text("Instead of the header"), orgId=text()
            ),
            ok=(200, "The balance", personal),
            errors={
                400: ("Not JSON, or of the wrong shape", MESSAGE),
                401: ("No key, or an unknown one", MESSAGE),
            },
        ),
        op(
            "get",
            "/api/user/usage",
            "Usage",
            "What is left, for the browser",
            auth="cookie",
            ok=(
                200,
                "The balance by kind",
                record(
                    "usageThisCycle balance nextQuotaReset",
                    usageThisCycle=whole(),
                    balance=record(
                        "totalRemaining totalDebt netBalance breakdown principals",
                        totalRemaining=whole(),
                        totalDebt=whole(),
                        netBalance=whole(),
                        breakdown=BALANCE,
                        principals=BALANCE,
                    ),
                    nextQuotaReset=moment(),
                    autoTopupTriggered=flag(),
                    autoTopupEnabled=flag(),
                ),
            ),
            errors={401: ("Not signed in", ERROR)},
        ),
    )


def _accounts() -> tuple[Any, ...]:
    signed_out: dict[int, tuple[str, Schema]] = {401: ("Not signed in", ERROR)}
    session = record(
        "id label expires isCurrent sessionType",
        id=text("SHA-256 of the token"),
        label=text(),
        expires=moment(),
        isCurrent=flag(),
        fingerprintId=maybe(text()),
        createdAt=maybe(moment()),
        sessionType=text(enum=["web", "cli"]),
    )
    key = record(
        "id token expires type",
        id=text("Stable; DELETE /api/sessions takes it"),
        token=text("Masked"),
        expires=moment(),
        createdAt=maybe(moment()),
        type=text(const="pat"),
    )
    fields = "id, email, discord_id, referral_code, stripe_customer_id, banned, referral_link"
    return (
        op(
            "get",
            "/api/v1/me",
            "Accounts",
            "Who am I",
            auth="key",
            parameters=[query("fields", f"Comma list of: {fields}. Without it: id", required=False)],
            ok=(200, "The fields asked for", record(id=text(), email=text())),
            errors={400: ("Unknown fields", ERROR), 401: ("No key, or an unknown one", ERROR)},
        ),
        op(
            "get",
            "/api/user/profile",
            "Accounts",
            "My profile",
            auth="cookie",
            ok=(200, "The profile", {"type": "object"}),
            errors={**signed_out, 404: ("No such user", ERROR)},
        ),
        op(
            "get",
            "/api/user/sessions",
            "Accounts",
            "My browser and command line sessions",
            auth="cookie",
            ok=(200, "The sessions", record("activeSessions", activeSessions=many(session))),
            errors=signed_out,
        ),
        op(
            "post",
            "/api/user/sessions/logout-all",
            "Accounts",
            "Sign out everywhere else",
            auth="cookie",
            description="Ends my other browser sessions, and the command line sessions and keys they made.",
            ok=(200, "They are signed out", record("ok", ok=flag())),
            errors={**signed_out, 403: ("Called from another site, or with a key in the cookie", ERROR)},
        ),
        op(
            "delete",
            "/api/sessions",
            "Accounts",
            "Revoke sessions and keys",
            auth="cookie",
            description="With a browser session end the command line sessions and keys it made.",
            body=record(sessionIds=many(text()), tokenIds=many(text())),
            ok=(
                200,
                "How many were revoked",
                record("revokedSessions revokedTokens", revokedSessions=whole(), revokedTokens=whole()),
            ),
        ),
        op(
            "get",
            "/api/api-keys",
            "Accounts",
            "My keys, masked",
            auth="cookie",
            ok=(200, "The keys", record("tokens", tokens=many(key))),
            errors=signed_out,
        ),
        op(
            "post",
            "/api/api-keys",
            "Accounts",
            "Make a key",
            auth="cookie",
            description="The key is in this answer and never again.",
            body=record(name=text(minLength=1), expiresInDays=number("Default 365", minimum=1, maximum=365)),
            ok=(
                201,
                "The key",
                record("token expires message", token=text(), expires=moment(), message=text()),
            ),
            errors={
                **signed_out,
                400: ("The body cannot be used", ERROR),
                403: ("Called with a key in the cookie", ERROR),
            },
        ),
    )


def _sign_in() -> tuple[Any, ...]:
    code = record(
        "fingerprintId fingerprintHash expiresAt loginUrl",
        fingerprintId=text(),
        fingerprintHash=text("64 hex"),
        expiresAt=whole("Milliseconds since 1970"),
        loginUrl=text("To be opened in a browser"),
    )
    user = record(
        "id name email authToken fingerprintId fingerprintHash",
        id=text(),
        name=maybe(text()),
        email=text(),
        authToken=text("The key"),
        fingerprintId=text(),
        fingerprintHash=text(),
    )
    return (
        op(
            "post",
            "/api/auth/cli/code",
            "Sign-in",
            "Begin to sign a command line in",
            body=record("fingerprintId", fingerprintId=text(), referralCode=text()),
            ok=(200, "The code and the address to open", code),
            errors={400: ("The body cannot be used", ERROR)},
        ),
        op(
            "get",
            "/api/auth/cli/status",
            "Sign-in",
            "Ask whether the command line is signed in",
            description="The token is in the first 200 and never again.",
            parameters=[
                query("fingerprintId", "As sent"),
                query("fingerprintHash", "As answered"),
                query("expiresAt", "As answered"),
            ],
            ok=(200, "It is", record("user message", user=user, message=text())),
            errors={400: ("A parameter is missing", ERROR), 401: ("Not yet, or not any more", ERROR)},
        ),
        op(
            "post",
            "/api/auth/cli/logout",
            "Sign-in",
            "Sign the command line out",
            auth="key",
            body=record(
                "userId fingerprintId fingerprintHash",
                userId=text(),
                fingerprintId=text(),
                fingerprintHash=text(),
                authToken=text("Instead of the header"),
            ),
            ok=(200, "Signed out, or it was already", record("success", success=flag())),
            errors={400: ("The body cannot be used", ERROR), 401: ("No key", ERROR)},
        ),
        op(
            "get",
            "/api/auth/providers",
            "Sign-in",
            "Ways to sign in",
            ok=(200, "The configured providers by name", {"type": "object"}),
        ),
        op(
            "get",
            "/api/auth/csrf",
            "Sign-in",
            "A token for the sign-in forms",
            ok=(200, "The token", record("csrfToken", csrfToken=text())),
        ),
        op(
            "get",
            "/api/auth/session",
            "Sign-in",
            "The browser's session",
            ok=(200, "Empty when signed out", record(user={"type": "object"}, expires=moment())),
        ),
    )


def _publishers() -> tuple[Any, ...]:
    signed_out: dict[int, tuple[str, Schema]] = {401: ("Not signed in", ERROR)}
    access: dict[int, tuple[str, Schema]] = {
        **signed_out,
        403: ("A plain member of its organisation", ERROR),
        404: ("No such publisher, or somebody else's", ERROR),
    }
    said = {
        "email": maybe(text("Shown on its page", maxLength=254)),
        "bio": maybe(text("Plain text", maxLength=1000)),
        "avatar_url": maybe(text("An https:// address, or what POST /api/upload/avatar answered")),
    }
    row = record(
        "id name verified created_by created_at updated_at ownershipType",
        id=text(),
        name=text(),
        **said,
        verified=flag("Set by the operators of this server"),
        user_id=maybe(text("Its owner; null when an organisation owns it")),
        org_id=maybe(text()),
        created_by=text(),
        created_at=moment(),
        updated_at=moment(),
        ownershipType=text(enum=["user", "organization"]),
    )
    counted = {
        **row,
        "properties": {**row["properties"], "agentCount": whole("Agents"), "organizationName": text()},
    }
    publisher_id = {"name": "publisherId", "in": "path", "required": True, "schema": text()}
    return (
        op(
            "get",
            "/api/publishers",
            "Publishers",
            "The publishers I may change",
            auth="cookie",
            description="My own, and those of organisations that I own or administer.",
            ok=(200, "The publishers", many(counted)),
            errors=signed_out,
        ),
        op(
            "post",
            "/api/publishers",
            "Publishers",
            "Make a publisher",
            auth="cookie",
            description="An avatar_url is kept as it comes; pages show it when it is an https:// address, or a picture kept here.",
            body=record(
                "id name",
                id=text("3 to 30 of a-z, 0-9 and hyphens, none at the ends"),
                name=text("2 to 50 characters"),
                **said,
                org_id=text("The organisation that shall own it; else you do"),
            ),
            ok=(201, "The publisher", counted),
            errors={
                **signed_out,
                400: ("An id or name against the rules, or an id that is taken", ERROR),
                403: ("A plain member of the organisation", ERROR),
                404: ("No such organisation, or not yours", ERROR),
            },
        ),
        op(
            "get",
            "/api/publishers/validate",
            "Publishers",
            "Whether an id can be taken",
            parameters=[query("id", "The id")],
            ok=(200, "Whether, and if not, why", record("valid", valid=flag(), error=maybe(text()))),
            errors={400: ("No id given", record("valid error", valid=flag(), error=text()))},
        ),
        op(
            "patch",
            "/api/publishers/{publisherId}",
            "Publishers",
            "Edit a publisher",
            auth="cookie",
            description="Keys that are left out stay as they are; null empties.",
            parameters=[publisher_id],
            body=record("", name=text("2 to 50 characters"), **said),
            ok=(200, "The publisher", counted),
            errors={**access, 400: ("A value that cannot be used; details by key", DETAILS)},
        ),
        op(
            "post",
            "/api/publishers/{publisherId}/organization",
            "Publishers",
            "Give a publisher to an organisation",
            auth="cookie",
            parameters=[publisher_id],
            body=record("org_id", org_id=text("An organisation that you own or administer")),
            ok=(200, "The publisher", row),
            errors={**access, 400: ("No organisation named, or it belongs to one already", ERROR)},
        ),
        op(
            "delete",
            "/api/publishers/{publisherId}/organization",
            "Publishers",
            "Take a publisher out of its organisation",
            auth="cookie",
            description="It belongs to who created it again.",
            parameters=[publisher_id],
            ok=(200, "The publisher", row),
            errors={**access, 400: ("It belongs to no organisation", ERROR)},
        ),
        op(
            "post",
            "/api/upload/avatar",
            "Publishers",
            "Upload an avatar",
            auth="cookie",
            description="Redrawn as a WebP of 512 x 512 pixels without metadata, and kept under its SHA-256.",
            body=record("avatar", avatar=text("A still JPEG, PNG or WebP, at most 5 MB", format="binary")),
            body_kind="multipart/form-data",
            ok=(200, "Its address", record("avatar_url", avatar_url=text())),
            errors={
                **signed_out,
                400: ("No file, another type, more than 5 MB, or no whole still picture", ERROR),
                503: ("The store of files does not answer", ERROR),
            },
        ),
    )


def _publishing() -> tuple[Any, ...]:
    definitions = many({"$ref": "#/components/schemas/AgentDefinition"}, maxItems=500)
    local = many(text(), description="Agents the caller keeps locally; they count as known")
    problem = record("filePath message", filePath=text("The agent's id"), message=text())
    names = {
        "publisher": text("The publisher's id"),
        "agent": text("The agent's id"),
        "version": text("Such as 1.0.0"),
    }
    parts = {
        name: {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in names.items()
    }
    whole_place, agent_place = list(parts.values()), [parts["publisher"], parts["agent"]]
    reason = text("Why, in a sentence", minLength=1, maxLength=500)
    version = record(
        "publisherId id version",
        publisherId=text(),
        id=text(),
        version=text(),
        yankedAt=maybe(moment()),
        yankedReason=maybe(text()),
    )
    agent = record(
        "publisherId id",
        publisherId=text(),
        id=text(),
        deprecatedAt=maybe(moment()),
        deprecatedReason=maybe(text()),
        successor=maybe(text()),
    )
    refusal = record(
        "error",
        error=text(),
        details=text("What exactly"),
        hint=text("What helps"),
        validationErrors=many({"type": "object"}),
    )
    withdrawing: dict[int, tuple[str, Schema]] = {
        400: ("The body cannot be used", ERROR),
        401: ("Not signed in", ERROR),
        403: ("A plain member of the publisher's organisation", ERROR),
        404: ("No such publisher of yours, no such agent or version", ERROR),
    }
    too_many = {429: ("Too many requests", ERROR)}
    return (
        op(
            "post",
            "/api/agents/validate",
            "Store",
            "Check agent definitions",
            description="Nothing is published. 200 also when definitions are wrong: validationErrors says what.",
            body=record("agentDefinitions", agentDefinitions=definitions, allLocalAgentIds=local),
            ok=(
                200,
                "What is wrong with them",
                record(
                    "success configs validationErrors errorCount",
                    success=flag(),
                    configs=many(text("The id of a definition that is right")),
                    validationErrors=many(problem),
                    errorCount=whole(),
                ),
            ),
            errors={
                400: ("agentDefinitions is no list", ERROR),
                500: ("The body is no JSON", ERROR),
                **too_many,
            },
        ),
        op(
            "post",
            "/api/agents/publish",
            "Store",
            "Publish agents",
            auth="both",
            description="All become new versions, or none does. A version must be greater than the latest; without one"
            " it is the next patch version. Versions never change.",
            body=record(
                "data",
                data={**definitions, "minItems": 1},
                allLocalAgentIds=local,
                authToken=text("A key, where no header can carry it"),
            ),
            ok=(
                201,
                "Published",
                record(
                    "success publisherId agents",
                    success=flag(),
                    publisherId=text(),
                    agents=many(
                        record("id version displayName", id=text(), version=text(), displayName=text())
                    ),
                ),
            ),
            errors={
                400: ("Body, definition, version or a named agent cannot be used", refusal),
                401: ("Not signed in", ERROR),
                403: ("No such publisher of yours", refusal),
                409: (
                    "Somebody else published this version at this moment, or the publisher is full",
                    refusal,
                ),
                413: ("The request is too large, or the publisher has all the bytes it may have", refusal),
                429: ("Too many requests, or too much published today; Retry-After says how long", refusal),
            },
        ),
        op(
            "post",
            "/api/agents/{publisher}/{agent}/{version}/yank",
            "Store",
            "Withdraw a version",
            auth="both",
            description="`latest` passes over it; by its exact version it can still be fetched.",
            parameters=whole_place,
            body=record("reason", reason=reason),
            ok=(200, "Withdrawn", version),
            errors={**withdrawing, **too_many},
        ),
        op(
            "delete",
            "/api/agents/{publisher}/{agent}/{version}/yank",
            "Store",
            "Bring a version back",
            auth="both",
            parameters=whole_place,
            ok=(200, "As it was", version),
            errors={**withdrawing, **too_many},
        ),
        op(
            "post",
            "/api/agents/{publisher}/{agent}/deprecation",
            "Store",
            "Deprecate an agent",
            auth="both",
            parameters=agent_place,
            body=record("reason", reason=reason, successor=maybe(text("publisher/agent to use instead"))),
            ok=(200, "Deprecated", agent),
            errors={**withdrawing, **too_many},
        ),
        op(
            "delete",
            "/api/agents/{publisher}/{agent}/deprecation",
            "Store",
            "Take a deprecation back",
            auth="both",
            parameters=agent_place,
            ok=(200, "As it was", agent),
            errors={**withdrawing, **too_many},
        ),
        op(
            "get",
            "/api/docs/agent-definition",
            "Store",
            "What a definition is, in TypeScript",
            ok=(200, "A type file", text()),
            kind="text/plain",
        ),
        op(
            "get",
            "/api/docs/agent-definition.json",
            "Store",
            "What a definition is, as JSON Schema",
            ok=(200, "JSON Schema 2020-12", {"type": "object"}),
        ),
    )


def _server() -> tuple[Any, ...]:
    return (
        op(
            "get",
            "/api/healthz",
            "Server",
            "Whether the server answers",
            ok=(200, "It does", record("status", status=text(const="ok"), timestamp=moment())),
        ),
        op(
            "get", "/api/openapi.json", "Server", "This document", ok=(200, "OpenAPI 3.1", {"type": "object"})
        ),
    )


def document() -> dict[str, Any]:
    """The whole document, for this server's address."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path, operation in operations():
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stoa",
            "version": "0.1.0",
            "description": "Bodies are read as JSON whatever their content type; unknown keys are ignored."
            " Credits are whole, one is a US cent. Moments are UTC.",
        },
        "servers": [{"url": settings().base_url}],
        "components": {
            "schemas": components(),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A personal key (cb-pat-…) or the command line's token",
                },
                "cookie": {"type": "apiKey", "in": "cookie", "name": "next-auth.session-token"},
            },
        },
        "paths": paths,
    }


@bp.get("/api/openapi.json")
def openapi() -> Response:
    """The document itself."""
    response = jsonify(document())
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Cache-Control"] = "public, max-age=300"
    return response


@bp.get("/docs/api")
def page() -> Response:
    """The document as a page: every route, who may call it, what it takes and answers."""
    tags: dict[str, list[dict[str, Any]]] = {}
    for method, path, operation in operations():
        tags.setdefault(operation["tags"][0], []).append(
            {
                "id": operation["operationId"],
                "method": method.upper(),
                "path": path,
                "auth": {"none": "nobody in particular"}.get(_auth(operation), _auth(operation)),
                "operation": operation,
                "fields": _fields(operation),
            }
        )
    return render("docs/api.html", tags=tags, base_url=settings().base_url, host=request.host)


def _auth(operation: dict[str, Any]) -> str:
    names = [name for scheme in operation["security"] for name in scheme]
    return (
        " or ".join({"key": "an API key", "cookie": "a signed-in browser"}[name] for name in names) or "none"
    )


def _fields(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """The body's keys, one row each: name, type in words, whether required, what it is."""
    content: dict[str, Any] = operation.get("requestBody", {}).get("content", {})
    schema: Schema = next((each["schema"] for each in content.values()), {})
    rows = []
    for variant in schema.get("oneOf", [schema]):
        for name, item in variant.get("properties", {}).items():
            rows.append(
                {
                    "name": name,
                    "type": _type(item),
                    "required": name in variant.get("required", []),
                    "description": item.get("description", ""),
                    "variant": variant.get("properties", {}).get("action", {}).get("const", ""),
                }
            )
    return rows


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(item) for item in schema["anyOf"])
    kind = schema.get("type", "any")
    names = kind if isinstance(kind, list) else [kind]
    words = {"array": f"list of {_type(schema['items'])}s" if "items" in schema else "list"}
    return " or ".join(words.get(name, str(name)) for name in names)
