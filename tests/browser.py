"""A headless Chromium that opens a page of ours; tests skip, and say so, where there is none."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

QUIET = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"


def opened(page: Path, folder: Path) -> str:
    """The page's elements as the browser has them, after it was opened without a word on the console."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [found, *QUIET.split(), profile, "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    return done.stdout


def assert_self_contained(page: str) -> None:
    """Nothing on the page asks the net, or could: no script, no link, no address but to the page itself."""
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)", page)
    assert not re.findall(r"url\(\s*[\"']?(?!#)", page) and "@import" not in page
    assert "<script" not in page and "<link" not in page and "<iframe" not in page
    assert "default-src 'none'" in page
