"""Assistants in versions: who may change them, what is stored, what is refused."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.write_limits import WriteLimitExceeded
from models.assistants import (
    AgentDeleted,
    Assistant,
    AssistantVersion,
    SavedAssistant,
    StaleVersion,
    assistant_budget_changed,
    assistants_page,
    create_assistant,
    delete_assistant,
    duplicate_assistant,
    readable_assistant,
    restore_assistant,
    restore_version,
    runnable_assistant,
    update_assistant,
    versions_page,
)
from models.assistants.assistant_editing import purge_assistants
from models.core import jobs
from models.core.audit_log import AuditLog
from models.core.db import now
from models.core.errors import Conflict, DomainError, Forbidden, Invalid, NotFound
from models.core.settings import Settings
from models.ledger import Account
from models.orgs import Org
from tests import factories
from tests.factories import Person

FIELDS: dict[str, Any] = {"name": "Editor", "instructions": "Edit texts."}
FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def made(session: OrmSession, alice: Person, settings: Settings) -> SavedAssistant:
    """An assistant of alice's own."""
    found = create_assistant(alice.id, own(alice), FIELDS, settings)
    session.commit()
    return found


def own(person: Person) -> Account:
    return Account(user_id=person.id)


def test_each_change_makes_a_version_and_keeps_the_others(
    session: OrmSession, made: SavedAssistant, alice: Person, settings: Settings
) -> None:
    id, account = made.assistant.id, own(alice)
    assert id.startswith("agnt_")
    assert made.agent_id == f"private/{id}@1"
    changed = update_assistant(
        alice.id, account, id, {"name": "Poet", "context": "Rhymes"}, settings, expected=1
    )
    assert (changed.assistant.version, changed.version.name, changed.version.instructions) == (
        2,
        "Poet",
        "Edit texts.",
    )
    with pytest.raises(StaleVersion) as stale:
        update_assistant(alice.id, account, id, {"name": "Other"}, settings, expected=1)
    assert (stale.value.status, stale.value.current) == (409, 2)
    restored = restore_version(alice.id, account, id, 1, settings, expected=2)
    assert (restored.assistant.version, restored.assistant.name, restored.version.context) == (
        3,
        "Editor",
        None,
    )
    assert [row.version for row in versions_page(alice.id, account, id)] == [3, 2, 1]
    assert [row.version for row in versions_page(alice.id, account, id, before=3, limit=1)] == [2]
    assert readable_assistant(alice.id, account, id, 2).version.context == "Rhymes"
    assert readable_assistant(alice.id, account, id).version.version == 3
    for missing in (0, 4, -1):
        with pytest.raises(NotFound):
            readable_assistant(alice.id, account, id, missing)
        with pytest.raises(NotFound):
            restore_version(alice.id, account, id, missing, settings)


def test_a_deleted_assistant_vanishes_until_it_is_restored(
    session: OrmSession, made: SavedAssistant, alice: Person, settings: Settings
) -> None:
    id, account = made.assistant.id, own(alice)
    with pytest.raises(Conflict) as living:
        restore_assistant(alice.id, account, id, settings)
    assert living.value.code == "not_deleted"
    delete_assistant(alice.id, account, id)
    assert assistants_page(alice.id, account) == []
    assert [row.assistant.id for row in assistants_page(alice.id, account, deleted=True)] == [id]
    for act in (
        lambda: readable_assistant(alice.id, account, id),
        lambda: update_assistant(alice.id, account, id, {"name": "x"}, settings),
        lambda: delete_assistant(alice.id, account, id),
        lambda: duplicate_assistant(alice.id, account, id, settings),
        lambda: versions_page(alice.id, account, id),
        lambda: restore_version(alice.id, account, id, 1, settings),
    ):
        with pytest.raises(NotFound):
            act()
    with pytest.raises(AgentDeleted) as deleted:
        runnable_assistant(alice.id, account, id)
    assert (deleted.value.status, deleted.value.code) == (409, "agent_deleted")
    create_assistant(alice.id, account, FIELDS, settings)  # the name is free
    assert restore_assistant(alice.id, account, id, settings).version.instructions == "Edit texts."
    assert runnable_assistant(alice.id, account, id).assistant.id == id


def test_the_purge_removes_the_contents_and_still_says_that_it_was_deleted(
    session: OrmSession, made: SavedAssistant, alice: Person, settings: Settings
) -> None:
    id, account = made.assistant.id, own(alice)
    delete_assistant(alice.id, account, id)
    session.commit()
    assert purge_assistants(now() + timedelta(days=29), 30) == 0
    assert purge_assistants(now() + timedelta(days=31), 30) == 1
    assert purge_assistants(now() + timedelta(days=31), 30) == 0
    session.commit()
    assert session.scalars(select(AssistantVersion)).all() == []
    assert session.get_one(Assistant, id).name == ""
    assert assistants_page(alice.id, account, deleted=True) == []
    with pytest.raises(NotFound):
        restore_assistant(alice.id, account, id, settings)
    with pytest.raises(AgentDeleted):
        runnable_assistant(alice.id, account, id)


def test_the_job_purges(session: OrmSession, made: SavedAssistant, alice: Person) -> None:
    delete_assistant(alice.id, own(alice), made.assistant.id)
    session.get_one(Assistant, made.assistant.id).deleted_at = now() - timedelta(days=40)
    session.commit()
    jobs.purge_assistants(0)
    session.expire_all()
    assert session.get_one(Assistant, made.assistant.id).purged_at is not None


def test_a_duplicate_is_independent(
    session: OrmSession, made: SavedAssistant, alice: Person, settings: Settings
) -> None:
    copy = duplicate_assistant(alice.id, own(alice), made.assistant.id, settings)
    assert (copy.assistant.name, copy.assistant.version) == ("Editor (copy)", 1)
    named = duplicate_assistant(alice.id, own(alice), made.assistant.id, settings, "Mine")
    assert named.assistant.name == "Mine"
    update_assistant(alice.id, own(alice), copy.assistant.id, {"instructions": "Changed"}, settings)
    assert readable_assistant(alice.id, own(alice), made.assistant.id).version.instructions == "Edit texts."


def test_lists_are_newest_first_paged_and_searched(
    session: OrmSession, alice: Person, mallory: Person, settings: Settings
) -> None:
    account = own(alice)
    ids = [
        create_assistant(
            alice.id,
            account,
            {**FIELDS, "name": f"Number {number}", "description": f"Says 100% {number}"},
            settings,
        ).assistant.id
        for number in range(5)
    ]
    create_assistant(mallory.id, own(mallory), FIELDS, settings)
    found: list[str] = []
    before = None
    while page := assistants_page(alice.id, account, before=before, limit=2):
        found += [row.assistant.id for row in page]
        before = (page[-1].assistant.created_at, page[-1].assistant.id)
    assert found == ids[::-1]
    for search, count in (("number", 5), ("NUMBER 3", 1), ("100% 4", 1), ("%", 5), ("_", 0), ("\0", 5)):
        assert len(assistants_page(alice.id, account, search=search)) == count, search


def test_another_tenants_assistant_is_not_found(
    session: OrmSession, made: SavedAssistant, alice: Person, mallory: Person, settings: Settings
) -> None:
    id = made.assistant.id
    errors = set()

    def acts(account: Account, each: str) -> list[Callable[[], Any]]:
        return [
            lambda: readable_assistant(mallory.id, account, each),
            lambda: runnable_assistant(mallory.id, account, each),
            lambda: update_assistant(mallory.id, account, each, {"name": "x"}, settings),
            lambda: delete_assistant(mallory.id, account, each),
            lambda: restore_assistant(mallory.id, account, each, settings),
            lambda: duplicate_assistant(mallory.id, account, each, settings),
            lambda: restore_version(mallory.id, account, each, 1, settings),
            lambda: versions_page(mallory.id, account, each),
        ]

    for account in (own(mallory), own(alice)):
        for each in (id, "agnt_unknown", "\0"):
            for act in acts(account, each):
                with pytest.raises(NotFound) as refused:
                    act()
                errors.add(refused.value.message)
    assert len(errors) == 1
    session.rollback()
    assert readable_assistant(alice.id, own(alice), id).assistant.version == 1


ROLES = {
    "owner": {"see", "run", "edit", "delete"},
    "admin": {"see", "run", "edit", "delete"},
    "member": {"see", "run", "edit"},
    "service": {"see", "run", "edit"},
    "viewer": {"see"},
    "billing": set(),
}


@pytest.mark.parametrize("role", ROLES)
def test_roles_of_an_organisation(
    session: OrmSession, acme: Org, alice: Person, mallory: Person, settings: Settings, role: str
) -> None:
    account = Account(org_id=acme.id)
    id = create_assistant(alice.id, account, FIELDS, settings).assistant.id
    factories.join(acme, mallory.id, role)
    acts: dict[str, Callable[[], Any]] = {
        "see": lambda: (readable_assistant(mallory.id, account, id), assistants_page(mallory.id, account)),
        "run": lambda: runnable_assistant(mallory.id, account, id),
        "edit": lambda: update_assistant(mallory.id, account, id, {"name": "x"}, settings),
        "delete": lambda: delete_assistant(mallory.id, account, id),
    }
    for name, act in acts.items():
        if name in ROLES[role]:
            act()
        else:
            with pytest.raises(Forbidden):
                act()


def test_who_made_an_assistant_deletes_it_and_the_organisation_records_it(
    session: OrmSession, acme: Org, bob: Person, settings: Settings
) -> None:
    account = Account(org_id=acme.id)
    id = create_assistant(bob.id, account, FIELDS, settings).assistant.id
    update_assistant(bob.id, account, id, {"name": "x"}, settings)
    delete_assistant(bob.id, account, id)
    restore_assistant(bob.id, account, id, settings)
    session.commit()
    actions = session.scalars(select(AuditLog.action).where(AuditLog.org_id == acme.id).order_by(AuditLog.id))
    assert list(actions) == [f"assistant.{verb}" for verb in ("created", "changed", "deleted", "restored")]


def test_limits_of_number_and_bytes(session: OrmSession, alice: Person, settings: Settings) -> None:
    account = own(alice)
    few = settings.model_copy(update={"stoa_assistants_per_account": 1})
    first = create_assistant(alice.id, account, FIELDS, few)
    with pytest.raises(WriteLimitExceeded) as full:
        create_assistant(alice.id, account, FIELDS, few)
    assert (full.value.status, "STOA_ASSISTANTS_PER_ACCOUNT" in full.value.message) == (409, True)
    delete_assistant(alice.id, account, first.assistant.id)
    create_assistant(alice.id, account, FIELDS, few)
    with pytest.raises(WriteLimitExceeded):
        restore_assistant(alice.id, account, first.assistant.id, few)
    small = settings.model_copy(update={"stoa_assistant_bytes_per_day": 2_000})
    with pytest.raises(WriteLimitExceeded) as bytes_full:
        create_assistant(alice.id, account, {**FIELDS, "context": "x" * 3_000}, small)
    assert bytes_full.value.status == 413


def test_a_budget_changes_without_a_version_and_is_announced(
    session: OrmSession, made: SavedAssistant, alice: Person, settings: Settings
) -> None:
    heard: list[tuple[str, int | None]] = []

    def hear(assistant: Assistant) -> None:
        heard.append((assistant.id, assistant.budget))

    id = made.assistant.id
    with assistant_budget_changed.connected_to(hear):
        for budget in (500, 500, None):
            assert (
                update_assistant(alice.id, own(alice), id, {}, settings, budget=budget).assistant.version == 1
            )
    assert heard == [(id, 500), (id, None)]
    for wrong in (-1, 1.5, True, "7", 10**10):
        with pytest.raises(Invalid):
            update_assistant(alice.id, own(alice), id, {}, settings, budget=wrong)
    with pytest.raises(Invalid):
        update_assistant(alice.id, own(alice), id, {}, settings)


TOOL = FUNCTION["function"]
DEEP: Any = {}
for _ in range(40):
    DEEP = {"type": "object", "properties": {"x": DEEP}}


def values(*each: Any) -> list[Any]:
    return list(each)


WRONG: list[tuple[str, Any]] = [
    *(("name", each) for each in values("", "  ", "x" * 256, "line\nbreak", "\0", 7, None)),
    *(("instructions", each) for each in values("", " ", "x" * 65_537, "é" * 40_000, "\0", [], None)),
    *(("description", each) for each in values("x" * 2_001, 7, "\0")),
    *(("context", each) for each in values("x" * 262_145, 7, "\0")),
    *(("model", each) for each in values("x" * 201, 7, "a\nb", " ")),
    *(
        ("tools", each)
        for each in values(None, "look", "[", '{"a": 1}', '["\\u0000"]', '["\\ud800"]', 7, {}, [7], [None])
    ),
    ("tools", ["x"] * 2),
    ("tools", [f"t{number}" for number in range(129)]),
    ("tools", ["no spaces"]),
    ("tools", ["x" * 65]),
    ("tools", [{"type": "retrieval"}]),
    ("tools", [{"type": "function"}]),
    ("tools", [{"type": "function", "function": {"name": "a b"}}]),
    ("tools", [{"type": "function", "function": TOOL, "id": "x"}]),
    *(
        ("tools", [{"type": "function", "function": {**TOOL, **each}}])
        for each in values(
            {"parameters": []},
            {"parameters": {"type": "string"}},
            {"parameters": {"properties": []}},
            {"parameters": {"properties": {"a": 7}}},
            {"parameters": {"required": "a"}},
            {"parameters": {"required": [1]}},
            {"parameters": DEEP},
            {"parameters": {"description": "x" * 70_000}},
            {"parameters": {"description": "\0"}},
            {"description": 7},
            {"strict": "yes"},
            {"code": "x"},
        )
    ),
    ("tools", [FUNCTION, "look"]),
    *(
        ("mcp_servers", each)
        for each in values(None, {}, [7], [{"name": "a"}], [{"name": "a", "url": "ftp://x"}])
    ),
    *(
        ("mcp_servers", [{"name": "a", "url": "https://x.example", **each}])
        for each in values(
            {"name": "a__b"},
            {"name": "x" * 33},
            {"url": "https://u:p@x.example"},
            {"url": "https://x.example/" + "x" * 2_000},
            {"headers": []},
            {"headers": {"Host": "s"}},
            {"headers": {"X": "has space"}},
            {"headers": {"X\n": "s"}},
            {"headers": {"X": 7}},
            {"allowed_tools": "all"},
            {"allowed_tools": [7]},
            {"token": "s"},
        )
    ),
    ("mcp_servers", [{"name": f"s{number}", "url": "https://x.example"} for number in range(9)]),
    ("mcp_servers", [{"name": name, "url": "https://x.example"} for name in "aA"]),
    *(
        ("model_params", each)
        for each in values(None, [], {"temperature": 3}, {"temperature": "1"}, {"top_p": -1}, {"x": 1})
    ),
    *(
        ("model_params", {key: each})
        for key, each in values(
            ("temperature", True),
            ("max_tokens", 0),
            ("max_tokens", 1.5),
            ("seed", 2**63),
            ("reasoning_effort", "huge"),
            ("reasoning_effort", ["low"]),
            ("verbosity", 1),
            ("parallel_tool_calls", 1),
            ("stop", ["a"] * 5),
            ("stop", [7]),
            ("response_format", {"type": "xml"}),
            ("response_format", {"type": "json_schema", "json_schema": DEEP}),
            ("response_format", {"type": "json_schema", "json_schema": "x" * 40_000}),
        )
    ),
    *(
        ("metadata", each)
        for each in values(None, [], {"a": 1}, {"": "x"}, {"k" * 65: "x"}, {"k": "x" * 513})
    ),
    ("metadata", {str(number): "x" for number in range(17)}),
    *(
        ("variables", each)
        for each in values(None, [], {"a b": {"type": "string"}}, {"a": "string"}, {"a": {"type": "date"}})
    ),
    *(
        ("variables", {"a": {"type": "string", **each}})
        for each in values(
            {"required": 1},
            {"description": 7},
            {"description": "x" * 1_001},
            {"default": 7},
            {"values": ["a"]},
            {"hint": "x"},
            {"type": "enum"},
            {"type": "enum", "values": []},
            {"type": "enum", "values": ["a", "a"]},
            {"type": "enum", "values": [1]},
            {"type": "enum", "values": ["a"], "default": "b"},
            {"type": "number", "default": "seven"},
            {"type": "boolean", "default": "maybe"},
        )
    ),
    ("variables", {f"v{number}": {"type": "string"} for number in range(65)}),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda each: str(each)[:40])
def test_wrong_fields_are_refused_by_name(
    session: OrmSession, alice: Person, settings: Settings, field: str, value: Any
) -> None:
    with pytest.raises(Invalid) as refused:
        create_assistant(alice.id, own(alice), {**FIELDS, field: value}, settings)
    assert (refused.value.status, list(refused.value.fields)) == (422, [field])
    session.rollback()
    assert session.scalars(select(Assistant)).all() == []


def test_what_is_sent_is_stored_in_its_normal_form(
    session: OrmSession, alice: Person, settings: Settings
) -> None:
    flat = {
        "type": "function",
        "name": "look",
        "parameters": {"properties": {"q": {"type": "string"}}},
        "strict": True,
    }
    found = create_assistant(
        alice.id,
        own(alice),
        {
            "name": " Editor ",
            "instructions": "Write to {{who}}.",
            "tools": [flat],
            "model": "openai/gpt-5-mini",
            "model_params": {"temperature": 0.5, "seed": None, "stop": "END"},
            "variables": {"who": {"type": "string", "required": True}},
            "metadata": {"team": "docs"},
        },
        settings,
    ).version
    assert (found.name, found.model_params, found.metadata_) == (
        "Editor",
        {"temperature": 0.5, "stop": "END"},
        {"team": "docs"},
    )
    parameters = {"type": "object", "properties": {"q": {"type": "string"}}}
    assert found.tools == [
        {"type": "function", "function": {"name": "look", "parameters": parameters, "strict": True}}
    ]
    assert found.variables == {
        "who": {"type": "string", "required": True, "description": None, "default": None}
    }
    text = create_assistant(
        alice.id, own(alice), {**FIELDS, "tools": '[{"type": "function", "name": "a"}]'}, settings
    )
    assert text.version.tools == [{"type": "function", "function": {"name": "a"}}]


def test_every_refusal_is_a_domain_error() -> None:
    assert all(issubclass(each, DomainError) for each in (AgentDeleted, StaleVersion))
