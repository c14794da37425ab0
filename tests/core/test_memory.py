"""A worker does not keep what a rush of calls needed once it is over."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.core.settings import ROOT

RUSH = """
import shutil
import types

import gevent
import psutil

from views.server import gunicorn_config as web

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


FOLDERS = """
import os
import shutil
import sys
from pathlib import Path
from pathlib import Path

from views.server import gunicorn_config as web

shutil.rmtree(web.figures)
parent = Path(sys.argv[1])
for name in ("stoa-metrics-999999999-old", f"stoa-metrics-{os.getppid()}-mine", "stoa-metrics-odd"):
    (parent / name).mkdir()
web.new_figures(sys.argv[1])
print(*sorted(folder.name.split("-")[2] for folder in parent.iterdir()))
"""


def test_figures_of_killed_servers_are_cleared_away(tmp_path: Path) -> None:
    program = [sys.executable, "-c", FOLDERS, str(tmp_path)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    left = done.stdout.split()
    assert len(left) == 3
    assert "999999999" not in left
    assert str(os.getpid()) in left
