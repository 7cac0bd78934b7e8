"""
The card of a judge on the hub: its snippet names the repository, and its seal tells whether somebody edited it.

The seal is a comment at the end of the card with a hash of all that stands before it.
"""

import hashlib
import json
import re

CARD = "README.md"
SNIPPET_START, SNIPPET_END = "<!-- sft_judge: snippet -->", "<!-- sft_judge: end of the snippet -->"
_SNIPPET = re.compile(f"{re.escape(SNIPPET_START)}.*?{re.escape(SNIPPET_END)}", re.DOTALL)
_SEAL = re.compile(r"\n*<!-- sft_judge: pushed as ([0-9a-f]{64}) -->\s*$")


def snippet(name: str, revision: str | None = None) -> str:
    """The lines of a card that load the judge `name` and ask it, between markers by which they are found again."""
    at = f", revision={json.dumps(revision)}" if revision else ""
    return f"""{SNIPPET_START}
```python
from sft_judge import Judge

print(Judge.load({json.dumps(name)}{at}).judge("Name a prime.", "Seven.", "Nine."))
```
{SNIPPET_END}"""


def name_in_snippet(card: str, repo_id: str, revision: str | None) -> str:
    """The card with a snippet that loads `repo_id`; all else, and a card without the markers, stays as it is."""
    return _SNIPPET.sub(lambda found: snippet(repo_id, revision), card)


def seal(card: str) -> str:
    """The card with a seal in place of an older one."""
    text = _SEAL.sub("", card)
    return f"{text.rstrip()}\n\n<!-- sft_judge: pushed as {_hash(text)} -->\n"


def was_edited(there: str, ours: str) -> bool:
    """Whether a card on the hub has a text that is neither the one it was sealed with nor ours."""
    found = _SEAL.search(there)
    text = _SEAL.sub("", there)
    return _hash(text) not in (found[1] if found else None, _hash(_SEAL.sub("", ours)))


def _hash(text: str) -> str:
    """SHA-256 of a text; line breaks are those of whoever wrote it last, and do not count, nor do those at the end."""
    return hashlib.sha256(text.replace("\r\n", "\n").rstrip().encode()).hexdigest()
