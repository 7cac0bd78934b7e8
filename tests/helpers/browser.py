"""A headless Chromium that opens a page of ours, driven by Playwright; tests skip, and say so, where there is none."""

import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

QUIET = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync --disable-quic"


def chromium() -> str:
    """Its path."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return found


@contextmanager
def tab(url: str, width: int = 1000, dark: bool = False):
    """
    `(page, said)`: a Playwright page at an address, `width` CSS pixels wide, and what it did.

    `said` holds every address asked for and whatever came on the console.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=QUIET.split())
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light")
        page, said = context.new_page(), []
        page.on("request", lambda request: said.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        yield page, said
        browser.close()


def faults(page) -> list[str]:
    """What axe-core finds against the page for people who see or move otherwise, best practices included."""
    violations = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['help']} ({one['nodes'][0]['html'][:200]})" for one in violations]


SIZES = ((390, False), (768, True), (1280, False), (1920, False))
CUT = """() => [...document.querySelectorAll("main *")].filter(one => {
    const box = one.getBoundingClientRect(), head = one.closest("thead");
    const hidden = head && getComputedStyle(head).position === "absolute";  // its words stand before each cell
    return !hidden && box.width > 0 && (box.right > window.innerWidth + 1 || one.scrollWidth > one.clientWidth + 1
        && getComputedStyle(one).overflowX !== "visible");
}).map(one => one.tagName + " " + one.className + " " + one.textContent.slice(0, 60))"""


def opened(file: Path) -> str:
    """
    The elements of a page as the browser has them: opened without a word on the console or a request, and by axe-core
    without fault, at four widths and in the dark, no element cut off, nor wider than the window.
    """
    for width, dark in SIZES:
        with tab(file.as_uri(), width, dark) as (page, said):
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(CUT) == []
            assert faults(page) == []
            assert said == [file.as_uri()]
            content = page.content()
    return content


def assert_self_contained(page: str) -> None:
    """Nothing on the page asks the net, or could: no script, no link, no address but to the page itself."""
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)", page)
    assert not re.findall(r"url\(\s*[\"']?(?!#)", page) and "@import" not in page
    assert "<script" not in page and "<link" not in page and "<iframe" not in page
    assert "default-src 'none'" in page
