"""The page at `/`: paste a prompt and two answers, see the probabilities. It asks nothing of any other address."""

import base64
import hashlib
import re
from importlib.resources import files

import jinja2

TEMPLATE = files("sft_judge.inference.serving").joinpath("page.html.jinja").read_text(encoding="utf-8")


def page(name: str, keyed: bool) -> str:
    """The page as HTML, for a judge of that name; `keyed`: it asks for a key."""
    return jinja2.Environment(autoescape=True).from_string(TEMPLATE).render(name=name, keyed=keyed)


def content_policy() -> str:
    """The page's policy: its own script and style and no other, requests to its own server alone."""
    hashes = {tag: _hash(re.search(rf"<{tag}>(.*?)</{tag}>", TEMPLATE, re.DOTALL)[1]) for tag in ("script", "style")}
    rules = [f"{tag}-src '{digest}'" for tag, digest in hashes.items()]
    closed = ("base-uri", "form-action", "frame-ancestors")
    return "; ".join(
        ["default-src 'none'", "connect-src 'self'", "img-src data:", *rules, *(f"{name} 'none'" for name in closed)]
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
