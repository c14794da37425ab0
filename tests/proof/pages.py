"""Every page in a browser, by the test that opens some of them (tests/web/test_every_page.py)."""

import os
import re
import subprocess
import sys
import time

from models.core.settings import ROOT
from tests.proof.stage import Result

TEST = "tests/web/test_every_page.py"


def pages(numbers: str = ":") -> Result:
    """Open all pages and states, or those with `numbers`: a first and a last, such as `40:80`, since all take an hour. Needs Chromium (STOA_CHROMIUM); STOA_SCREENSHOTS names a folder for pictures of them."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=line", "--show-capture=no", TEST],
        cwd=ROOT,
        env=os.environ | {"STOA_ALL_PAGES": numbers},
        capture_output=True,
        text=True,
        timeout=7200,
        check=False,
    )
    found = re.findall(r"^\S+ /\S*: .*", done.stdout, re.MULTILINE)
    failure = "" if done.returncode == 0 else "\n".join(found) or done.stdout[-600:]
    return Result(
        "pages",
        f"pages and states {numbers}",
        f"{len(found)} with findings",
        time.monotonic() - start,
        failure,
    )
