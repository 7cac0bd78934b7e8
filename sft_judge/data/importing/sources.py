"""Sources of `import`: a path, a folder, a pattern, or the id of a data set on the Hugging Face Hub."""

import glob
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from sft_judge.core.errors import InputError, one_line
from sft_judge.core.files import InputPath
from sft_judge.data.importing.folders import DESCRIPTIONS, files_of_split, is_saved

SUFFIXES = (".parquet", ".jsonl", ".csv", ".json")
ZIPPED = ".gz"  # a single compressed file, decompressed while it is read
OWN_FILE_SUFFIXES = ("manifest.json", ".rejects.jsonl")  # files that stages write next to their outputs
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def named_sources(names: list[str]) -> list[Path | str]:
    """Expand patterns to the files they match (a pattern without a match is kept); a Hub id stays text."""
    sources: list[Path | str] = []
    for name in names:
        matches = [] if Path(name).exists() else sorted(glob.glob(name, recursive=True))
        is_hub = not Path(name).exists() and _HUB_ID.fullmatch(name) and Path(name).suffix not in SUFFIXES
        sources += [InputPath(match) for match in matches] or [name if is_hub else InputPath(name)]
    return sources


def source_files(source: Path, split: str | None = None, config: str | None = None) -> list[Path]:
    """
    Return a file itself, or the data files of a folder (at any depth, sorted by name) that belong to a split.

    Our own manifests and rejects files are skipped, and so are files that only describe a data set.

    Args:
        source: a file or a folder.
        split: see `folders.choose_splits`.
        config: config of a card with several configs.

    Raises:
        InputError: the folder has no data files or other splits, or a link leads out of the folder.
    """
    if not source.is_dir() or is_saved(source):
        return [source]
    files = [
        file
        for file in sorted(source.rglob("*"))
        if file.is_file()
        and file.name.removesuffix(ZIPPED).endswith(SUFFIXES)
        and not file.name.endswith(OWN_FILE_SUFFIXES)
        and file.name not in DESCRIPTIONS
        and ".partial" not in file.name
    ]
    if not files:
        raise InputError(f"{source}: no {', '.join(SUFFIXES)} in this folder. Give a file or another folder.")
    for file in files:
        if not file.resolve().is_relative_to(source.resolve()):
            raise InputError(f"{file}: a link that leads out of {source}. Give the file that it points to instead.")
    return files_of_split(source, files, split, config)


def hub_rows(
    name: str, split: str | None, config: str | None = None, revision: str | None = None, streaming: bool = False
) -> Iterator[tuple[int, dict, None]]:
    """
    Yield the rows of one split of a Hub data set, numbered from 1, with `datasets`; the data set's code is not run.

    Args:
        name: the Hub id.
        split: a split, or several joined by `+`.
        config: config of a data set whose card has several.
        revision: a branch, tag or commit.
        streaming: read the rows over the network without keeping a copy of the files.

    Raises:
        InputError: the data set cannot be loaded, or the download breaks off; the message gives a way without network.
    """
    import datasets
    from huggingface_hub.errors import HTTPError

    splits = (split or "train").split("+") if streaming else [split or "train"]
    options = {"revision": revision, "streaming": streaming}
    try:
        sets = [datasets.load_dataset(name, config, split=part, **options) for part in splits]
        for number, row in enumerate(itertools.chain.from_iterable(sets), start=1):
            yield number, row, None
    except (OSError, ValueError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError) as error:
        at = f" at revision {revision}" if revision else ""
        raise InputError(
            f"{name}{at}: not a local file, and it cannot be loaded from the Hub ({one_line(error)}). Without a "
            f"network, download it first (`hf download --repo-type dataset {name} --local-dir DIR`) and import DIR."
        ) from error
