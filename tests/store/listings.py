"""A complete agent for page tests: versions, daily runs, dependencies, README."""

from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts import User
from models.orgs import Org
from models.store import Agent, AgentDay, AgentVersion
from models.store.statistics.agent_costs import AgentRunCost
from tests import factories
from tests.factories import Person, now

README = """## What it needs

- Read access to the repository. It **never** writes.
- A model with 128k context; it asks for `stoa/demo` first.

| Setting | Default |
|---|---|
| `focus` | everything |
| `max_remarks` | 12 |

```
focus: security
```

### What it will not do

It does not approve or merge. See [the guide](https://example.org/guide).
"""
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}"


def post(who: Person, path: str, **data: str) -> TestResponse:
    """Post a form with its CSRF token."""
    token = (who.browser.get("/api/auth/csrf").json or {})["csrfToken"]
    return who.browser.post(path, data={"csrf_token": token} | data)


def create_agent(session: OrmSession, owner: User | Org, publisher: str = "harbor", **kw: Any) -> Agent:
    """Create `<publisher>/code-reviewer`: three versions, two of them used; spawns two agents."""
    tools = factories.publisher(owner, publisher, name="Harbor Tools", verified=True)
    for id, spawns in (
        ("advisories", []),
        ("file-picker", []),
        ("security-check", ["advisories", "file-picker"]),
    ):
        refs = [f"{publisher}/{each}@1.0.0" for each in spawns]
        factories.agent(
            tools, id, data={"spawnableAgents": refs, "toolNames": ["spawn_agents"] if refs else []}
        )
    data = {
        "displayName": "Code reviewer",
        "name": "Code reviewer",
        "description": "Reads a change, looks for bugs and risks, and writes a review with a line number for each remark.",
        "tags": ["review", "security"],
        "systemPrompt": "You review changes.\nBe brief: `one` line, ${no} more.",
        "spawnerPrompt": "Reviews a change and says what is wrong with it.",
        "toolNames": ["read_files", "spawn_agents", "end_turn"],
        "spawnableAgents": [
            f"{publisher}/file-picker@1.0.0",
            f"{publisher}/security-check@1.0.0",
            "quarry/gone@2.0.1",
        ],
        "inputSchema": {"prompt": {"type": "string", "description": "What to review"}},
    } | kw.pop("data", {})
    for version, days in (("1.9.0", 190), ("2.4.0", 18), ("2.4.1", 2)):
        older = {
            "systemPrompt": "You review changes.\nSay everything.\n",
            "toolNames": ["read_files", "find_files"],
        }
        factories.agent_version(
            tools,
            "code-reviewer",
            version,
            data | (older | {"spawnableAgents": []} if version == "1.9.0" else {}),
            published_at=now() - timedelta(days=days),
        )
    today = now().date()
    for back in range(30):
        for version, runs in (("2.4.0", 40 + back * 3), ("2.4.1", 90 - back if back < 3 else 0)):
            if runs:
                day = AgentDay(
                    publisher_id=publisher, agent_id="code-reviewer", day=today - timedelta(days=back),
                    version=version, runs=runs, credits=runs * 7,
                )  # fmt: skip
                session.add(day)
    for version, runs in (("2.4.0", 2505), ("2.4.1", 267)):
        row = session.get_one(AgentVersion, (publisher, "code-reviewer", version))
        row.runs, row.weekly_runs, row.failed, row.credits = runs, runs // 4, runs // 60, runs * 7
        session.add(
            AgentRunCost(
                publisher_id=publisher, agent_id="code-reviewer", version=version, runs=runs // 2, median=7, p95=19,
                median_ms=2_900, p95_ms=61_000,
            )
        )  # fmt: skip
        row.changelog = f"- Names the line of each remark\n- Faster than before {version}"
        row.unique_users, row.last_used = 318, now() - timedelta(hours=2)
    agent = session.get_one(Agent, (publisher, "code-reviewer"))
    statistics = {"runs": 2772, "weekly_runs": 692, "failed": 45, "credits": 2772 * 7, "unique_users": 400}
    for name, value in ({"readme": README} | statistics | kw).items():
        setattr(agent, name, value)
    session.commit()
    return agent
