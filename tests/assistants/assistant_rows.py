"""Rows for pages of assistants: one with two versions and a document, a tool, and a secret."""

from models import assistants
from models.assistants import tool_registry, tool_secrets
from models.assistants.assistant_documents import SCOPE
from models.core.db import extension
from models.index import Document
from models.ledger import Account
from tests import factories

WORDS = "You answer questions of customers of {{company}}, with a word that does not wrap: " + "x" * 120
MCP = {"name": "docs", "url": "https://mcp.example.com/mcp", "headers": {}, "allowed_tools": ["find"]}


def assistant_rows(user_id: str, account: Account) -> dict[str, str]:
    """Make them in the current transaction. Ids for the arguments of routes."""
    limits = extension("settings")
    secret = tool_secrets.add_secret(user_id, account, "crm", "api.example.com", "Bearer sk-0123456789abcdef")
    headers = {"Authorization": secret.name}
    tool = tool_registry.add_tool(
        user_id, account, {"name": "find_order", "url": "https://api.example.com/orders", "headers": headers}
    )
    raw = {
        "name": "Support writer · mail",
        "description": "Answers what customers ask by mail",
        "instructions": WORDS,
        "context": "Private facts",
        "model": "stoa/demo",
        "tools": [tool.name, "file_search", {"type": "function", "name": "look"}],
        "mcp_servers": [MCP],
        "variables": {"company": {"type": "enum", "values": ["Acme", "Umbrella"]}},
        "model_params": {"temperature": 0.5, "seed": 7},
    }
    made = assistants.create_assistant(user_id, account, raw, limits, budget=5_000).assistant
    change = {"instructions": WORDS.replace("questions", "letters")}
    assistants.update_assistant(user_id, account, made.id, change, limits)
    document = Document(
        id=f"file-{made.id[-32:].replace('-', '0')}", account_id=account.id, user_id=user_id, scope_kind=SCOPE,
        scope_id=made.id, name="handbook.pdf", media_type="application/pdf", bytes=2_000_000, sha256="1" * 64,
        state="failed", report={"error": "The file is encrypted. Remove its password, then upload it again."},
    )  # fmt: skip
    factories.save(document)
    return {
        "assistant_id": made.id,
        "tool_id": tool.id,
        "secrets/name": secret.name,
        f"{made.id}/documents/document_id": document.id,
    }
