"""Long form: `python -m tests.proof [--short] [race aborts …]`. Prints a table; exit code 1 if a proof fails."""

import argparse
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from models.core.settings import ROOT
from tests.proof import kill_points, upstream
from tests.proof.aborts import aborts
from tests.proof.clients import clients
from tests.proof.counting import counting_proof
from tests.proof.crashes import crashes
from tests.proof.event_orders import PURCHASE, event_orders
from tests.proof.faults import faults, unreachable_providers
from tests.proof.garbage import garbage
from tests.proof.hostile import TIMEOUTS, hostile
from tests.proof.pages import pages
from tests.proof.payment_crashes import payment_crashes
from tests.proof.payment_histories import payment_histories
from tests.proof.payments import Payments, settings_of, simulated_stripe
from tests.proof.project_histories import project_histories
from tests.proof.race import race
from tests.proof.renewal_orders import renewal_histories
from tests.proof.runners import SHORT_LEASES, killed_runners
from tests.proof.soak import soak
from tests.proof.stage import Result, Serve, Stage, serving
from tests.proof.stops import stops
from tests.proof.storm import storm
from tests.proof.topups import topups
from tests.proof.turns import killed_turns, stalled_turns, watched
from tests.proof.webhooks import webhooks

Proof = Callable[[Serve, Stage], Result]
PaymentProof = Callable[[Payments], Result]

MANY_STREAMS = {"STOA_EVENT_STREAMS": "1000"}
"""One key watches with as many streams."""
WORKERS = 3
PAGES = "pages"
"""The proof that needs a browser instead of a server of its own."""

LONG: dict[str, Proof] = {
    "race": lambda server, stage: race(stage, calls=200, affordable=20, accounts=20, calls_each=60),
    "aborts": lambda server, stage: aborts(stage, streams=1000, concurrency=200),
    "stops": lambda server, stage: stops(stage, rounds=5),
    "crashes": lambda server, stage: crashes(server, stage, rounds=10),
    "counting": lambda server, stage: counting_proof(stage, seconds=60),
    "faults": lambda server, stage: faults(stage, server.web_workers(), times=3),
    "garbage": lambda server, stage: garbage(stage, fuzzed=10_000, examples=25, seconds=120),
    "hostile": lambda server, stage: hostile(stage, server.web_workers(), times=20, slow=4100, floods=2000),
    "soak": lambda server, stage: soak(stage, server.web_workers(), seconds=600, clients=24),
    "clients": lambda server, stage: clients(stage),
    "watched": lambda server, stage: watched(stage),
    "killed-turns": killed_turns,
    "stalled-turns": stalled_turns,
    "killed-runners": killed_runners,
    "storm": storm,
    "projects": lambda server, stage: project_histories(
        server, stage, steps=10_000, clients=4, kills=120, days=40, proofs=10
    ),
}

SHORT: dict[str, Proof] = {
    "race": lambda server, stage: race(stage, calls=60, affordable=6, accounts=6, calls_each=15),
    "aborts": lambda server, stage: aborts(stage, streams=60, concurrency=30),
    "stops": lambda server, stage: stops(stage, rounds=1, max_seconds=5.0),
    "crashes": lambda server, stage: crashes(server, stage, clients=8, wait=False),
    "counting": lambda server, stage: counting_proof(stage, seconds=5),
    "faults": lambda server, stage: faults(stage, server.web_workers()),
    "garbage": lambda server, stage: garbage(stage),
    "hostile": lambda server, stage: hostile(stage, server.web_workers(), times=2, slow=200, floods=60),
    "soak": lambda server, stage: soak(stage, server.web_workers(), seconds=10),
    "watched": lambda server, stage: watched(stage, watchers=60, words=8),
    "killed-turns": lambda server, stage: killed_turns(server, stage, kills=2, people=3),
    "stalled-turns": lambda server, stage: stalled_turns(server, stage, stalls=2, people=4),
    "killed-runners": lambda server, stage: killed_runners(server, stage, kills=6, people=2, workers_too=2),
    "storm": lambda server, stage: storm(server, stage, agents=30, cap=400, kills=2, calls=10),
    "projects": lambda server, stage: project_histories(server, stage, steps=150, kills=2, days=2),
}

LONG_OF_PAYMENTS: dict[str, PaymentProof] = {
    "webhooks": webhooks,
    "topups": topups,
    "orders": event_orders,
    "renewals": lambda payments: event_orders(payments, renewal_histories(payments), name="renewals"),
    "payment-crashes": payment_crashes,
    "payment-histories": payment_histories,
}

SHORT_OF_PAYMENTS: dict[str, PaymentProof] = {
    "webhooks": lambda payments: webhooks(payments, copies=20, rounds=1),
    "topups": lambda payments: topups(payments, people=1, jobs_each=10, quiet=5),
    "orders": lambda payments: event_orders(payments, [PURCHASE]),
    "renewals": lambda payments: event_orders(payments, renewal_histories(payments)[:1], name="renewals"),
    "payment-crashes": lambda payments: payment_crashes(payments, passes=1, stride=6),
    "payment-histories": lambda payments: payment_histories(payments, people=4, steps=25, actors=3),
}


def main() -> int:
    known = [*LONG, *LONG_OF_PAYMENTS, PAGES]
    arguments = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    arguments.add_argument("proofs", nargs="*", help=f"proofs to run: {', '.join(known)} (default: all)")
    arguments.add_argument("--short", action="store_true", help="use the short sizes of make test")
    arguments.add_argument(
        "--numbers", default=":", help="of the pages, from a first to a last, such as 40:80"
    )
    options = arguments.parse_args()
    unknown = set(options.proofs) - set(known)
    if unknown:
        arguments.error(f"unknown proof: {', '.join(sorted(unknown))}")
    proofs, of_payments = (SHORT, SHORT_OF_PAYMENTS) if options.short else (LONG, LONG_OF_PAYMENTS)
    if options.short and {"clients", PAGES} & set(options.proofs):
        arguments.error("clients and pages have no short form: one installs packages, one is a test")
    # `finally` ends all processes, even if a time limit stops this one
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    results = []
    for name in options.proofs or [*proofs, *of_payments, *([] if options.short else [PAGES])]:
        echo(f"{name} ...")
        results.append(_run_named(name, proofs, of_payments, options.numbers))
        echo(f"{name}: {results[-1].failure or 'passed'} ({results[-1].seconds:.0f} s)")
    table(results)
    return 1 if any(result.failure for result in results) else 0


def _run_named(
    name: str, proofs: dict[str, Proof], of_payments: dict[str, PaymentProof], numbers: str
) -> Result:
    if name == PAGES:
        return pages(numbers)
    return run_payments(name, of_payments[name]) if name in of_payments else run(name, proofs[name])


def run(name: str, proof: Proof) -> Result:
    """Run a proof on its own fresh server."""
    with unreachable_providers() as addresses:
        own = {
            "faults": addresses,
            "hostile": TIMEOUTS,
            "watched": MANY_STREAMS,
            "killed-runners": SHORT_LEASES,
        }
        settings = own.get(name, {})
        return run_on_server(name, proof, settings)


def run_payments(name: str, proof: PaymentProof) -> Result:
    """Run a payment proof on its own fresh server, with its own Stripe simulator."""
    with simulated_stripe() as stripe, tempfile.TemporaryDirectory(prefix="stoa-stops-") as folder:
        settings = settings_of(stripe)
        if name == "payment-crashes":
            settings |= kill_points.settings_of_kills(Path(folder))
        return run_on_server(
            name, lambda server, stage: proof(Payments(server, stage, stripe, Path(folder))), settings
        )


def run_on_server(name: str, proof: Proof, settings: dict[str, str]) -> Result:
    """Run a proof with a provider and a server with these settings; prove the ledger at the end."""
    start = time.monotonic()
    try:
        with (
            upstream.running() as provider,
            serving(provider, workers=WORKERS, **settings) as (server, stage),
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
