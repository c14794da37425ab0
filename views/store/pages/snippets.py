"""The lines that run an agent from elsewhere, with every word quoted for the language it is pasted into."""

import json
import shlex

from flask import url_for

from models.store.catalogue.agent_page import AgentPage

QUESTION = "Introduce yourself."
SHORT = 600
"""Characters of prompts that still fit a line to paste; longer ones are left to the clients that load the definition."""

CLIENTS = {"sdk": "TypeScript", "curl": "curl"}


def command_line(sheet: AgentPage) -> str:
    """The Codebuff command line, started with this version (contract 6.1)."""
    return f"codebuff --agent {sheet.full_id}"


def keep_line(sheet: AgentPage) -> str:
    """The Codebuff command line, told to offer this version in the project (contract 6.1)."""
    return f"codebuff save-agent {sheet.full_id}"


def typescript(sheet: AgentPage) -> str:
    """A program for `@codebuff/sdk`."""
    return f"""import {{ CodebuffClient }} from "@codebuff/sdk";

const client = new CodebuffClient({{
  apiKey: process.env.CODEBUFF_API_KEY,
  cwd: process.cwd(),
}});
const {{ output }} = await client.run({{
  agent: {json.dumps(sheet.full_id)},
  prompt: {json.dumps(QUESTION)},
}});
console.log(output);
process.exit();
"""


def typescript_start(base: str) -> str:
    """What installs the SDK and runs the program against this server."""
    return f"""npm install @codebuff/sdk
curl -O {base}{url_for("static", filename="clients/codebuff.mjs")}
STOA_BASE_URL={base} CODEBUFF_API_KEY=$STOA_KEY \\
  node --import ./codebuff.mjs app.mjs
"""


def curl(sheet: AgentPage, base: str) -> str:
    """A run without any client: start, one call to the agent's model on the run, finish. Any POSIX shell."""
    prompts = [str(sheet.data.get(key) or "").strip() for key in ("systemPrompt", "instructionsPrompt")]
    system = "\n\n".join(filter(None, prompts))
    messages = [{"role": "system", "content": system}] if 0 < len(system) <= SHORT else []
    messages.append({"role": "user", "content": QUESTION})
    start = shlex.quote(json.dumps({"action": "START", "agentId": sheet.full_id}))
    call = shlex.quote(json.dumps({"model": str(sheet.data.get("model") or ""), "messages": messages}))
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
