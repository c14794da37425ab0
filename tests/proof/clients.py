"""Unmodified client libraries: each makes calls, streams or calls a tool, and its calls are settled.

The Codebuff SDK has its own tests (`tests/clients`). The packages are installed for the proof, which takes minutes and
needs the network, so this is part of the long form only.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.proof.cast import Person
from tests.proof.stage import Result, Stage

DRIVERS = Path(__file__).parent / "drivers"

PYTHON = {
    "openai for Python": ("openai_python.py", "openai==3.57.0"),
    "LangChain": ("langchain_.py", "langchain-openai==1.7.4"),
    "LlamaIndex": ("llama_index_.py", "llama-index-llms-openai-like==0.8.1"),
    "pydantic-ai": ("pydantic_ai_.py", "pydantic-ai-slim[openai]==2.68.0"),
    "instructor": ("instructor_.py", "instructor==1.17.0"),
}
NODE = {"openai for Node": "openai-node.mjs", "Vercel AI SDK": "vercel-ai.mjs"}
NPM = (
    "openai@6.49.0",
    "ai@6.0.326",
    "@ai-sdk/openai-compatible@2.0.92",
    "zod@4.6.7",
    "opencode-ai@1.18.33",
)
LINE = "Write a line about the stoa."


def clients(stage: Stage) -> Result:
    """Run every client once, the way its users do."""
    (person,) = stage.people(1, 100_000)
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="stoa-clients-") as folder:
        directory = Path(folder)
        commands = {**_python(directory), **_node(directory), **_tools(directory, stage, person)}
        for name, run in commands.items():
            before = _settled(stage, person)
            done = run(_environment(directory, stage, person))
            if done.returncode:
                failed.append(f"{name}: {(done.stdout + done.stderr)[-500:]}")
            elif _settled(stage, person) == before:
                failed.append(f"{name}: no settled calls")
    assert not failed, "; ".join(failed)
    stage.prove()
    count = _settled(stage, person)
    return Result("clients", f"{len(commands)} clients: {', '.join(commands)}", f"{count} calls, all settled")


Run = Callable[[dict[str, str]], "subprocess.CompletedProcess[str]"]


def _python(directory: Path) -> dict[str, Run]:
    found = {}
    for name, (driver, package) in PYTHON.items():
        # their requirements conflict
        bin = _installed(directory / driver.removesuffix(".py"), package)
        found[name] = _command(str(bin / "python"), str(DRIVERS / driver))
    return found


def _node(directory: Path) -> dict[str, Run]:
    node = directory / "node"
    node.mkdir()
    (node / "package.json").write_text("{}")
    _checked(["npm", "install", "--no-audit", "--no-fund", "--silent", *NPM], node)
    for driver in NODE.values():
        shutil.copy(DRIVERS / driver, node)
    return {name: _command("node", driver, cwd=node) for name, driver in NODE.items()}


def _tools(directory: Path, stage: Stage, person: Person) -> dict[str, Run]:
    home = directory / "home"
    models = home / ".config" / "io.datasette.llm"
    models.mkdir(parents=True)
    (models / "keys.json").write_text(json.dumps({"stoa": person.key}))
    (models / "extra-openai-models.yaml").write_text(
        f"- model_id: stoa-demo\n  model_name: stoa/demo\n  api_base: {stage.address}/v1\n  api_key_name: stoa\n"
    )
    llm = _installed(directory / "llm", "llm==0.36") / "llm"
    aider = _installed(directory / "aider", "aider-chat==0.86.2") / "aider"
    work = directory / "work"
    work.mkdir()
    _checked(["git", "init", "--quiet"], work)
    (work / "stoa.py").write_text("columns = 1\n")
    options = {"baseURL": f"{stage.address}/v1", "apiKey": person.key}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": options,
        "models": {"stoa/demo": {"name": "demo"}},
    }
    config = {"model": "stoa/stoa/demo", "small_model": "stoa/stoa/demo", "provider": {"stoa": provider}}
    (work / "opencode.json").write_text(json.dumps(config))
    quiet = ("--no-show-model-warnings", "--yes-always", "--no-check-update", "--analytics-disable")
    return {
        "llm": _command(str(llm), "-m", "stoa-demo", LINE),
        "aider": _command(
            str(aider),
            *("--model", "openai/stoa/demo", *quiet, "--no-git", "--message", LINE, "stoa.py"),
            cwd=work,
        ),
        "opencode": _command(
            str(directory / "node" / "node_modules" / ".bin" / "opencode"), "run", LINE, cwd=work
        ),
    }


def _installed(directory: Path, package: str) -> Path:
    """Install a package into a new virtual environment. Returns its `bin` directory."""
    _checked([sys.executable, "-m", "venv", str(directory)], directory.parent)
    python = str(directory / "bin" / "python")
    _checked(
        [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, package], directory
    )
    return directory / "bin"


def _checked(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{command[:4]}: {(done.stdout + done.stderr)[-500:]}"


def _command(*words: str, cwd: Path | None = None) -> Run:
    def run(environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run


def _environment(directory: Path, stage: Stage, person: Person) -> dict[str, str]:
    base = f"{stage.address}/v1"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory / "home"),  # ignore the settings of the current user
        "OPENAI_BASE_URL": base,
        "OPENAI_API_BASE": base,
        "OPENAI_API_KEY": person.key,
    }


def _settled(stage: Stage, person: Person) -> int:
    return stage.number(
        "SELECT count(*) FROM gateway_call WHERE user_id = :id AND state = 'settled'", id=person.id
    )
