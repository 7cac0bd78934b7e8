"""
Model card of a judge on the Hub: a snippet that names the repository, and a seal that detects edits.

The seal is a comment at the end of the card with a hash of the text before it.
"""

import hashlib
import json
import re

CARD = "README.md"
SNIPPET_START, SNIPPET_END = "<!-- sft_judge: snippet -->", "<!-- sft_judge: end of the snippet -->"
_SNIPPET = re.compile(f"{re.escape(SNIPPET_START)}.*?{re.escape(SNIPPET_END)}", re.DOTALL)
_SEAL = re.compile(r"\n*<!-- sft_judge: pushed as ([0-9a-f]{64}) -->\s*$")


def snippet(name: str, revision: str | None = None) -> str:
    """
    Return the lines of a card that load a judge and judge one battle, between markers so that they can be replaced.

    Args:
        name: folder or Hub id of the judge.
        revision: branch, tag or commit, or None.
    """
    at = f", revision={json.dumps(revision)}" if revision else ""
    return f"""{SNIPPET_START}
```python
from sft_judge import Judge

print(Judge.load({json.dumps(name)}{at}).judge("Name a prime.", "Seven.", "Nine."))
```
{SNIPPET_END}"""


def name_in_snippet(card: str, repo_id: str, revision: str | None) -> str:
    """
    Return the card with a snippet that loads `repo_id`. A card without the markers is returned unchanged.

    Args:
        card: text of the card.
        repo_id: the repository.
        revision: branch, tag or commit, or None.
    """
    return _SNIPPET.sub(lambda found: snippet(repo_id, revision), card)


def seal(card: str) -> str:
    """Return the card with a new seal, which replaces an older one."""
    text = _SEAL.sub("", card)
    return f"{text.rstrip()}\n\n<!-- sft_judge: pushed as {_hash(text)} -->\n"


def was_edited(there: str, ours: str) -> bool:
    """
    Return True if the card on the Hub differs from the text it was sealed with and from ours.

    Args:
        there: the card on the Hub.
        ours: our card.
    """
    found = _SEAL.search(there)
    text = _SEAL.sub("", there)
    return _hash(text) not in (found[1] if found else None, _hash(_SEAL.sub("", ours)))


def _hash(text: str) -> str:
    """Compute the SHA-256 of a text; the kind of line breaks and whitespace at the end are ignored."""
    return hashlib.sha256(text.replace("\r\n", "\n").rstrip().encode()).hexdigest()
