"""A worker does not keep what a rush of calls needed once it is over."""

import ctypes
import subprocess
import sys

import pytest

from models.settings import ROOT

RUSH = """
import shutil
import types

import gevent
import psutil

from views.cli import web

web.GIVE_BACK_SECONDS = 0.01
rss = psutil.Process().memory_info
blocks = [bytes([n % 256]) * 8192 for n in range(8000)]
kept = blocks[-1]  # lies at the end of the heap, which glibc alone would give back
del blocks
before = rss().rss
worker = types.SimpleNamespace(alive=True)
keeping = gevent.spawn(web.Worker._keep_small, worker)
gevent.sleep(0.2)
worker.alive = False
keeping.join()
print((before - rss().rss) >> 20)
shutil.rmtree(web.figures)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc keeps free memory")
def test_a_worker_returns_free_memory_below_what_is_in_use() -> None:
    done = subprocess.run([sys.executable, "-c", RUSH], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50, "of the 62 MB that were free, less than 50 were returned"
