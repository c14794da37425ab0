"""Snippets that run an agent: shell, TypeScript and curl, quoted for their language."""

import json
import shlex

from flask import url_for

from models.store.catalogue.agent_page import AgentPage
from views.web.launcher import PROMPT

MAX_PROMPT = 600
"""Longest system prompt (characters) included in the curl snippet."""

CLIENTS = {"sdk": "TypeScript", "curl": "curl"}


def save_command(detail: AgentPage, base: str) -> str:
    """The command that saves this version's definition in the project."""
    address = base + url_for(
        "agent.definition",
        publisher_id=detail.publisher.id,
        agent_id=detail.agent.id,
        version=detail.version.version,
    )
    return f"curl -fsSo {shlex.quote(f'{detail.agent.id}.json')} {shlex.quote(address)}"


def typescript(detail: AgentPage) -> str:
    """A program for `@codebuff/sdk`."""
    return f"""import {{ CodebuffClient }} from "@codebuff/sdk";

const client = new CodebuffClient({{
  apiKey: process.env.STOA_KEY,
  cwd: process.cwd(),
}});
const {{ output }} = await client.run({{
  agent: {json.dumps(detail.full_id)},
  prompt: {json.dumps(PROMPT)},
}});
console.log(output);
process.exit();
"""


def typescript_start(base: str) -> str:
    """Shell commands that install the SDK and run the program against this server."""
    return f"""npm install @codebuff/sdk
curl -fsSO {base}{url_for("launcher.download")}
node --import ./stoa.mjs app.mjs
"""


def curl(detail: AgentPage, base: str) -> str:
    """A run in POSIX shell: start, one call to the agent's model, finish."""
    prompts = [str(detail.data.get(key) or "").strip() for key in ("systemPrompt", "instructionsPrompt")]
    system = "\n\n".join(filter(None, prompts))
    messages = [{"role": "system", "content": system}] if 0 < len(system) <= MAX_PROMPT else []
    messages.append({"role": "user", "content": PROMPT})
    start = shlex.quote(json.dumps({"action": "START", "agentId": detail.full_id}))
    call = shlex.quote(json.dumps({"model": str(detail.data.get("model") or ""), "messages": messages}))
    finish = '"{\\"action\\": \\"FINISH\\", \\"runId\\": \\"$RUN\\", \\"status\\": \\"completed\\",'
    totals = '\\"totalSteps\\": 1, \\"directCredits\\": 0, \\"totalCredits\\": 0}"'
    return f"""RUN=$(curl -s {base}/api/v1/agent-runs \\
  -H "Authorization: Bearer $STOA_KEY" \\
  -d {start} | cut -d'"' -f4)

curl {base}/v1/chat/completions \\
  -H "Authorization: Bearer $STOA_KEY" \\
  -H "x-stoa-run-id: $RUN" \\
  -d {call}

curl {base}/api/v1/agent-runs \\
  -H "Authorization: Bearer $STOA_KEY" \\
  -d {finish}
  {totals}
"""
