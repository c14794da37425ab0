"""A worker returns memory to the system after a burst of calls."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.core.settings import ROOT

BURST = """
import shutil
import types

import gevent
import psutil

from views.server import gunicorn_config as web

web.MEMORY_RELEASE_SECONDS = 0.01
rss = psutil.Process().memory_info
blocks = [bytes([n % 256]) * 8192 for n in range(8000)]
last = blocks[-1]  # at the top of the heap, which prevents glibc from trimming by itself
del blocks
before = rss().rss
worker = types.SimpleNamespace(alive=True)
releasing = gevent.spawn(web.StoaWorker._release_memory, worker)
gevent.sleep(0.2)
worker.alive = False
releasing.join()
print((before - rss().rss) >> 20)
shutil.rmtree(web.metrics_dir)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc keeps free memory")
def test_a_worker_returns_free_memory_below_what_is_in_use() -> None:
    done = subprocess.run([sys.executable, "-c", BURST], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50, "of the 62 MB that were free, less than 50 were returned"


DIRECTORIES = """
import os
import shutil
import sys
from pathlib import Path

from views.server import gunicorn_config as web

shutil.rmtree(web.metrics_dir)
parent = Path(sys.argv[1])
for name in ("stoa-metrics-999999999-old", f"stoa-metrics-{os.getppid()}-mine", "stoa-metrics-odd"):
    (parent / name).mkdir()
web.new_metrics_dir(sys.argv[1])
print(*sorted(folder.name.split("-")[2] for folder in parent.iterdir()))
"""


def test_metrics_of_killed_servers_are_removed(tmp_path: Path) -> None:
    program = [sys.executable, "-c", DIRECTORIES, str(tmp_path)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    left = done.stdout.split()
    assert len(left) == 3
    assert "999999999" not in left
    assert str(os.getpid()) in left
