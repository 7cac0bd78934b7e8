"""
The page at `/`: paste a prompt and two answers, and see the probabilities. It sends requests to this server only.
"""

import base64
import hashlib
import re
from importlib.resources import files

import jinja2

TEMPLATE = files("sft_judge.inference.serving").joinpath("page.html.jinja").read_text(encoding="utf-8")


def page(name: str, keyed: bool) -> str:
    """
    Render the page as HTML.

    Args:
        name: name of the judge.
        keyed: True if the server requires a key.
    """
    return jinja2.Environment(autoescape=True).from_string(TEMPLATE).render(name=name, keyed=keyed)


def content_policy() -> str:
    """Return the page's Content-Security-Policy: only its own script and style, and requests to its own server."""
    hashes = {tag: _hash(re.search(rf"<{tag}>(.*?)</{tag}>", TEMPLATE, re.DOTALL)[1]) for tag in ("script", "style")}
    rules = [f"{tag}-src '{digest}'" for tag, digest in hashes.items()]
    closed = ("base-uri", "form-action", "frame-ancestors")
    return "; ".join(
        ["default-src 'none'", "connect-src 'self'", "img-src data:", *rules, *(f"{name} 'none'" for name in closed)]
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
