"""What a person's export holds of their assistants, and what is left of them when the account is erased."""

import json
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.account_deletion import account_erasing
from models.assistants import (
    Assistant,
    AssistantVersion,
    Tool,
    ToolSecret,
    create_assistant,
    tool_registry,
    tool_secrets,
    update_assistant,
)
from models.core.db import now
from models.core.personal_export import export_files
from models.core.settings import Settings
from models.ledger import Account
from models.orgs import Org
from tests import factories
from tests.factories import Person


def make(person: Person, account: Account, settings: Settings) -> str:
    """An assistant in two versions, a tool and a secret."""
    tool_secrets.add_secret(person.id, account, "key", "api.example.com", "Bearer not-to-be-exported")
    tool_registry.add_tool(person.id, account, {"name": "look", "url": "https://api.example.com/"})
    new = {"name": "Editor", "instructions": "Edit", "context": "Facts", "tools": ["look"]}
    id = create_assistant(person.id, account, new, settings).assistant.id
    update_assistant(person.id, account, id, {"instructions": "Edit more"}, settings)
    return id


def test_the_export_holds_every_version_and_no_secret(
    session: OrmSession, acme: Org, alice: Person, mallory: Person, settings: Settings
) -> None:
    id = make(alice, Account(user_id=alice.id), settings)
    make(alice, Account(org_id=acme.id), settings)
    session.commit()
    files = {each.name: "".join(each.chunks(alice.id)) for each in export_files()}
    rows = [json.loads(line) for line in files["assistants.jsonl"].splitlines()]
    assert [(row["assistant_id"], row["version"], row["instructions"]) for row in rows] == [
        (id, 1, "Edit"),
        (id, 2, "Edit more"),
    ]
    assert (rows[0]["context"], rows[0]["current"], rows[0]["tools"]) == ("Facts", 2, ["look"])
    assert json.loads(files["tools.jsonl"])["name"] == "look"
    assert "key,api.example.com" in files["tool_secrets.csv"]
    assert "not-to-be-exported" not in str(files)
    theirs = [
        "".join(each.chunks(mallory.id))
        for each in export_files()
        if each.name.startswith(("assist", "tool"))
    ]
    assert "Editor" not in str(theirs)


def test_an_erased_account_leaves_only_what_the_organisation_owns(
    session: OrmSession, acme: Org, mallory: Person, settings: Settings
) -> None:
    factories.join(acme, mallory.id, "admin")
    make(mallory, Account(user_id=mallory.id), settings)
    kept = make(mallory, Account(org_id=acme.id), settings)
    session.commit()
    account_erasing.send(mallory.user, now=now() + timedelta(days=14))
    session.commit()
    assert session.scalars(select(Assistant.id)).all() == [kept]
    assert {row.assistant_id for row in session.scalars(select(AssistantVersion))} == {kept}
    for table in (Tool, ToolSecret):
        assert session.scalars(select(table.account_id)).all() == [acme.id]
