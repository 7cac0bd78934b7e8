"""What `import` is given, as files: a path, a folder, a pattern, or a data set of the Hugging Face hub by its id."""

import glob
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from sft_judge.core.errors import InputError, one_line
from sft_judge.core.files import InputPath
from sft_judge.data.importing.folders import DESCRIPTIONS, files_of_split, is_saved

SUFFIXES = (".parquet", ".jsonl", ".csv", ".json")
ZIPPED = ".gz"  # one file, read as it is unpacked
OWN_FILE_SUFFIXES = ("manifest.json", ".rejects.jsonl")  # what stages leave beside their outputs
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def named_sources(names: list[str]) -> list[Path | str]:
    """Patterns become the files they match (or stay, where they match none); a hub id stays text."""
    sources: list[Path | str] = []
    for name in names:
        matches = [] if Path(name).exists() else sorted(glob.glob(name, recursive=True))
        is_hub = not Path(name).exists() and _HUB_ID.fullmatch(name) and Path(name).suffix not in SUFFIXES
        sources += [InputPath(match) for match in matches] or [name if is_hub else InputPath(name)]
    return sources


def source_files(source: Path, split: str | None = None, config: str | None = None) -> list[Path]:
    """
    A file itself, or the data files of a folder at any depth that are of a split, by name.

    Our own manifests and rejects are no data, nor is what describes a data set. Raises `InputError` for a folder
    without any, or whose splits are others, and for a link that leads out of the folder.
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
        raise InputError(f"{source}: no {', '.join(SUFFIXES)} in this folder. Name a file or another folder.")
    for file in files:
        if not file.resolve().is_relative_to(source.resolve()):
            raise InputError(f"{file}: a link that leads out of {source}. Name the file that it leads to instead.")
    return files_of_split(source, files, split, config)


def hub_rows(
    name: str, split: str | None, config: str | None = None, revision: str | None = None, streaming: bool = False
) -> Iterator[tuple[int, dict, None]]:
    """
    The rows of one split of a hub data set, numbered from 1, through `datasets`: its files, and no code of it.

    Args:
        name: the hub id.
        split: several may be joined by +.
        config: of a data set whose card has several.
        revision: a branch, tag or commit.
        streaming: read the rows as they come over the network, and keep no copy of the files.

    Raises:
        InputError: it cannot be had, or it breaks off; names the way that needs no network.
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
            f"{name}{at}: not a file here, and not to be had from the hub ({one_line(error)}). Without a network, "
            f"fetch it where there is one (`hf download --repo-type dataset {name} --local-dir DIR`) and import DIR."
        ) from error
