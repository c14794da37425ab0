"""Long form: `python -m tests.proof [--short] [race aborts …]`. Prints a table; exit code 1 if a proof fails."""

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
from tests.proof.counting import counting_proof
from tests.proof.crashes import crashes
from tests.proof.faults import faults, unreachable_providers
from tests.proof.garbage import garbage
from tests.proof.hostile import TIMEOUTS, hostile
from tests.proof.race import race
from tests.proof.soak import soak
from tests.proof.stage import Result, Serve, Stage, serving

Proof = Callable[[Serve, Stage], Result]

WORKERS = 3

LONG: dict[str, Proof] = {
    "race": lambda server, stage: race(stage, calls=200, affordable=20, accounts=20, calls_each=60),
    "aborts": lambda server, stage: aborts(stage, streams=1000, concurrency=200),
    "crashes": lambda server, stage: crashes(server, stage, rounds=10),
    "counting": lambda server, stage: counting_proof(stage, seconds=60),
    "faults": lambda server, stage: faults(stage, server.web_workers(), times=3),
    "garbage": lambda server, stage: garbage(stage, fuzzed=10_000, examples=25, seconds=120),
    "hostile": lambda server, stage: hostile(stage, server.web_workers(), times=20, slow=4100, floods=2000),
    "soak": lambda server, stage: soak(stage, server.web_workers(), seconds=600, clients=24),
    "clients": lambda server, stage: clients(stage),
}

SHORT: dict[str, Proof] = {
    "race": lambda server, stage: race(stage, calls=60, affordable=6, accounts=6, calls_each=15),
    "aborts": lambda server, stage: aborts(stage, streams=60, concurrency=30),
    "crashes": lambda server, stage: crashes(server, stage, clients=8, wait=False),
    "counting": lambda server, stage: counting_proof(stage, seconds=5),
    "faults": lambda server, stage: faults(stage, server.web_workers()),
    "garbage": lambda server, stage: garbage(stage),
    "hostile": lambda server, stage: hostile(stage, server.web_workers(), times=2, slow=200, floods=60),
    "soak": lambda server, stage: soak(stage, server.web_workers(), seconds=10),
}


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    arguments.add_argument("proofs", nargs="*", help=f"proofs to run: {', '.join(LONG)} (default: all)")
    arguments.add_argument("--short", action="store_true", help="use the short sizes of make test")
    options = arguments.parse_args()
    unknown = set(options.proofs) - set(LONG)
    if unknown:
        arguments.error(f"unknown proof: {', '.join(sorted(unknown))}")
    proofs = SHORT if options.short else LONG
    if options.short and "clients" in options.proofs:
        arguments.error("clients has no short form, since it installs packages")
    results = []
    for name in options.proofs or proofs:
        echo(f"{name} ...")
        results.append(run(name, proofs[name]))
        echo(f"{name}: {results[-1].failure or 'passed'} ({results[-1].seconds:.0f} s)")
    table(results)
    return 1 if any(result.failure for result in results) else 0


def run(name: str, proof: Proof) -> Result:
    """Run a proof on its own fresh server."""
    start = time.monotonic()
    try:
        with (
            upstream.running() as provider,
            unreachable_providers() as addresses,
            serving(
                provider, workers=WORKERS, **{"faults": addresses, "hostile": TIMEOUTS}.get(name, {})
            ) as (
                server,
                stage,
            ),
        ):
            try:
                result = proof(server, stage)
                command_proves(server)
            except BaseException:
                echo(textwrap.indent(server.log_tail(), "  | "))
                raise
    except Exception as error:
        traceback.print_exc()
        result = Result(name, "", "", failure=str(error)[:300] or type(error).__name__)
    result.seconds = time.monotonic() - start
    return result


def command_proves(server: Serve) -> None:
    """Run `flask billing prove` like an operator."""
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
    echo("")
    for result in results:
        echo(f"{result.name:<16} {'FAILED' if result.failure else 'passed':<7} {result.seconds:5.0f} s")
        for line in (result.failure, result.summary, result.observed):
            if line:
                echo(textwrap.fill(line, 100, initial_indent="    ", subsequent_indent="      "))


def echo(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
