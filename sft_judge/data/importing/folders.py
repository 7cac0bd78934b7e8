"""
Data sets in folders: selection of the files or rows of the requested split.

A downloaded Hub data set defines its splits in its card (`configs`) or by the names of its files, as the library
`datasets` reads them. A folder written by `save_to_disk` holds Arrow files. Files that are left out are reported, so
that test rows do not become training rows unnoticed.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from sft_judge.core.errors import InputError, nearest, one_line

logger = logging.getLogger(__name__)

SAVED = ("dataset_dict.json", "state.json")  # written by `save_to_disk` for several splits and for one split
DESCRIPTIONS = (*SAVED, "dataset_info.json", "dataset_infos.json", "config.json")  # files that are not data
MAX_NAMES = 5  # file names listed in a message


def is_saved(folder: Path) -> bool:
    """Return True if a folder was written by `save_to_disk`."""
    return any((folder / name).is_file() for name in SAVED)


def saved_rows(folder: Path, split: str | None) -> Iterator[tuple[int, dict, None]]:
    """
    Yield the rows of a folder written by `save_to_disk`, numbered from 1.

    Args:
        folder: the folder.
        split: see `choose_splits`.

    Raises:
        InputError: the folder cannot be read, or does not have the requested split.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: not a data set of save_to_disk ({one_line(error)}).") from error
    if isinstance(loaded, datasets.DatasetDict):
        parts = [loaded[name] for name in choose_splits(folder, list(loaded), split)]
    elif split is None or split == str(loaded.split):
        parts = [loaded]
    else:
        raise InputError(f"{folder}: it has only the split {loaded.split}, not {split}. Leave out --split.")
    yield from ((number, row, None) for number, row in enumerate((row for part in parts for row in part), start=1))


def choose_splits(where, known: list[str], wanted: str | None) -> list[str]:
    """
    Return the splits to read.

    Args:
        where: the data set, for messages.
        known: splits of the data set.
        wanted: requested split, or several joined by `+` as in `datasets`; None selects train or the only split.

    Raises:
        InputError: a requested split is missing, or no split is requested of several without train.
    """
    if wanted is None:
        if "train" in known or len(known) == 1:
            return ["train"] if "train" in known else list(known)
        raise InputError(f"{where}: its splits are {', '.join(known)}; name one with --split, or several joined by +.")
    names = wanted.split("+")
    for name in names:
        if name not in known:
            raise InputError(f"{where}: no split {name!r}; it has {', '.join(known)}.{nearest(name, known)}")
    return names


def files_of_split(folder: Path, files: list[Path], split: str | None, config: str | None) -> list[Path]:
    """
    Return the files of a folder that belong to a split.

    Args:
        folder: the folder, with or without a card.
        files: its data files.
        split: see `choose_splits`.
        config: config of a card with several configs.

    Raises:
        InputError: the folder does not have the requested split or config, or its card lists missing files.
    """
    by_split = _splits(folder, config)
    names = choose_splits(folder, list(by_split), split)
    of_split = {file: name for name, part in by_split.items() for file in part}
    kept = [file for file in files if of_split.get(file.resolve()) in names]
    if not kept:
        raise InputError(f"{folder}: no data file in split {', '.join(names)}. Give the files instead of the folder.")
    left = [f"{file.name} ({of_split.get(file.resolve(), 'no split')})" for file in files if file not in kept]
    if left:
        more = f" and {len(left) - MAX_NAMES} more" if len(left) > MAX_NAMES else ""
        logger.info(f"{folder}: split {', '.join(names)}; left out: {', '.join(left[:MAX_NAMES])}{more}")
    return kept


def _splits(folder: Path, config: str | None) -> dict[str, list[Path]]:
    """Return the files of each split, from the folder's card or from their names."""
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns, sanitize_patterns

    stated = _config_of_card(folder, config)
    place = folder / (stated.get("data_dir") or "")
    try:
        named = stated.get("data_files")
        patterns = sanitize_patterns(named) if named else get_data_patterns(str(place))
        found = DataFilesDict.from_patterns(patterns, base_path=str(place))
    except (FileNotFoundError, EmptyDatasetError, ValueError) as error:
        raise InputError(f"{folder}: its data files cannot be determined ({one_line(error)}).") from error
    return {str(split): [Path(file).resolve() for file in part] for split, part in found.items()}


def _config_of_card(folder: Path, wanted: str | None) -> dict:
    """
    Return the settings of a config in a folder's card (by default the default or only config); empty without a card.
    """
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    card = folder / "README.md"
    configs = {}
    if card.is_file():
        try:
            configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card, ignore_metadata_errors=True).data)
        except ValueError as error:
            raise InputError(f"{card}: its configs cannot be read ({one_line(error)}).") from error
    if wanted is None:
        default = next((name for name in configs if name == "default" or configs[name].get("default")), None)
        if default is None and len(configs) > 1:
            raise InputError(f"{folder}: its configs are {', '.join(configs)}; name one with --config.")
        return configs.get(default) or next(iter(configs.values()), {})
    if wanted not in configs:
        known = ", ".join(configs) or "none"
        raise InputError(f"{folder}: no config {wanted!r}; its card has {known}.{nearest(wanted, configs)}")
    return configs[wanted]
