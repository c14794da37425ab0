"""The long form: `python -m tests.proof [--short] [race aborts …]`. Prints a table; exit code 1 when a proof fails."""

import argparse
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable

from models.core.settings import ROOT
from tests.proof import upstream
from tests.proof.aborts import aborts
from tests.proof.clients import clients
from tests.proof.counting import counted
from tests.proof.crashes import crashes
from tests.proof.faults import dead_ends, faults
from tests.proof.garbage import garbage
from tests.proof.hostile import TIMEOUTS, hostile
from tests.proof.race import race
from tests.proof.soak import soak
from tests.proof.stage import Result, Serve, Stage, serving

Proof = Callable[[Serve, Stage], Result]

WORKERS = 3

LONG: dict[str, Proof] = {
    "race": lambda server, stage: race(stage, calls=200, covered=20, accounts=20, each=60),
    "aborts": lambda server, stage: aborts(stage, streams=1000, at_once=200),
    "crashes": lambda server, stage: crashes(server, stage, rounds=10),
    "counting": lambda server, stage: counted(stage, seconds=60),
    "faults": lambda server, stage: faults(stage, server.web_workers(), times=3),
    "garbage": lambda server, stage: garbage(stage, fuzzed=10_000, examples=25, seconds=120),
    "hostile": lambda server, stage: hostile(stage, server.web_workers(), times=20, slow=4100, floods=2000),
    "soak": lambda server, stage: soak(stage, server.web_workers(), seconds=600, clients=24),
    "clients": lambda server, stage: clients(stage),
}

SHORT: dict[str, Proof] = {
    "race": lambda server, stage: race(stage, calls=60, covered=6, accounts=6, each=15),
    "aborts": lambda server, stage: aborts(stage, streams=60, at_once=30),
    "crashes": lambda server, stage: crashes(server, stage, clients=8, wait=False),
    "counting": lambda server, stage: counted(stage, seconds=5),
    "faults": lambda server, stage: faults(stage, server.web_workers()),
    "garbage": lambda server, stage: garbage(stage),
    "hostile": lambda server, stage: hostile(stage, server.web_workers(), times=2, slow=200, floods=60),
    "soak": lambda server, stage: soak(stage, server.web_workers(), seconds=10),
}


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    arguments.add_argument("proofs", nargs="*", help=f"which ones: {', '.join(LONG)}; all when none is named")
    arguments.add_argument("--short", action="store_true", help="the sizes of make test")
    asked = arguments.parse_args()
    unknown = set(asked.proofs) - set(LONG)
    if unknown:
        arguments.error(f"there is no proof {', '.join(sorted(unknown))}")
    proofs = SHORT if asked.short else LONG
    if asked.short and "clients" in asked.proofs:
        arguments.error("the proof clients has no short form: it installs the clients")
    results = []
    for name in asked.proofs or proofs:
        say(f"{name} ...")
        results.append(run(name, proofs[name]))
        say(f"{name}: {results[-1].wrong or 'holds'} ({results[-1].seconds:.0f} s)")
    table(results)
    return 1 if any(result.wrong for result in results) else 0


def run(name: str, proof: Proof) -> Result:
    """A proof on a fresh server of its own."""
    began = time.monotonic()
    try:
        with (
            upstream.running() as provider,
            dead_ends() as more,
            serving(provider, workers=WORKERS, **{"faults": more, "hostile": TIMEOUTS}.get(name, {})) as (
                server,
                stage,
            ),
        ):
            try:
                result = proof(server, stage)
                command_proves(server)
            except BaseException:
                say(textwrap.indent(server.words(), "  | "))
                raise
    except Exception as error:
        traceback.print_exc()
        result = Result(name, "", "", wrong=str(error)[:300] or type(error).__name__)
    result.seconds = time.monotonic() - began
    return result


def command_proves(server: Serve) -> None:
    """`flask billing prove`, as an operator runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app:create_app", "billing", "prove"],
        cwd=ROOT,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"flask billing prove: {done.stdout}{done.stderr}"


def table(results: list[Result]) -> None:
    say("")
    for result in results:
        say(f"{result.name:<16} {'FAILED' if result.wrong else 'holds':<7} {result.seconds:5.0f} s")
        for line in (result.wrong, result.ran, result.worst):
            if line:
                say(textwrap.fill(line, 100, initial_indent="    ", subsequent_indent="      "))


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
