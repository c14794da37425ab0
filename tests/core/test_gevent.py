"""Under gevent, waiting for PostgreSQL does not block other calls."""

import subprocess
import sys

from models.core.settings import ROOT

PROGRAM = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from sqlalchemy import create_engine, text
from models.core.db import engine_options

engine = create_engine(sys.argv[1], **engine_options(pool_size=4))

def sleep():
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_sleep(1)"))

start = time.monotonic()
gevent.joinall([gevent.spawn(sleep) for _ in range(8)], raise_error=True)
print(time.monotonic() - start)
engine.dispose()
"""


def test_eight_sleeps_on_four_connections_take_two_sleeps(postgres_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, postgres_url], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 2.0 <= float(done.stdout) < 7.5  # sequentially they would take eight seconds
