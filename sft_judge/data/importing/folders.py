"""
Data sets as folders: which of the files, or rows, are of the split that is asked for.

A downloaded hub set tells its splits in its card (`configs`), or by the names of its files, as the library `datasets`
reads them; a folder of its `save_to_disk` holds Arrow files. What is left out is said: test rows never go into
training unseen.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from sft_judge.core.errors import InputError, nearest, one_line

logger = logging.getLogger(__name__)

SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves, of several splits and of one
DESCRIPTIONS = (*SAVED, "dataset_info.json", "dataset_infos.json", "config.json")  # no data
MAX_NAMES = 5  # of files left out, in a message


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return any((folder / name).is_file() for name in SAVED)


def saved_rows(folder: Path, split: str | None) -> Iterator[tuple[int, dict, None]]:
    """
    The rows of a folder of `save_to_disk`, numbered from 1.

    Raises:
        InputError: it cannot be read, or its splits are not those asked for.
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
        raise InputError(f"{folder}: it is of split {loaded.split}, not of {split}. Leave --split out.")
    yield from ((number, row, None) for number, row in enumerate((row for part in parts for row in part), start=1))


def choose_splits(where, known: list[str], wanted: str | None) -> list[str]:
    """
    The splits to read: those wanted, several joined by `+` as `datasets` has them; else train, or the only one.

    Raises:
        InputError: a wanted one is not there, or none is wanted of several without a train.
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
    The files of a folder that are of a split.

    Args:
        folder: with or without a card.
        files: its data files.
        split: see `choose_splits`.
        config: of a card with several.

    Raises:
        InputError: the folder's splits or configs are not those asked for, or its card names files that are not there.
    """
    by_split = _splits(folder, config)
    names = choose_splits(folder, list(by_split), split)
    of_split = {file: name for name, part in by_split.items() for file in part}
    kept = [file for file in files if of_split.get(file.resolve()) in names]
    if not kept:
        raise InputError(f"{folder}: no data file in split {', '.join(names)}. Name the files themselves.")
    left = [f"{file.name} ({of_split.get(file.resolve(), 'no split')})" for file in files if file not in kept]
    if left:
        more = f" and {len(left) - MAX_NAMES} more" if len(left) > MAX_NAMES else ""
        logger.info(f"{folder}: split {', '.join(names)}; left out: {', '.join(left[:MAX_NAMES])}{more}")
    return kept


def _splits(folder: Path, config: str | None) -> dict[str, list[Path]]:
    """The files of each split by the folder's card, or else by their names."""
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns, sanitize_patterns

    stated = _config_of_card(folder, config)
    place = folder / (stated.get("data_dir") or "")
    try:
        named = stated.get("data_files")
        patterns = sanitize_patterns(named) if named else get_data_patterns(str(place))
        found = DataFilesDict.from_patterns(patterns, base_path=str(place))
    except (FileNotFoundError, EmptyDatasetError, ValueError) as error:
        raise InputError(f"{folder}: its data files cannot be told ({one_line(error)}).") from error
    return {str(split): [Path(file).resolve() for file in part] for split, part in found.items()}


def _config_of_card(folder: Path, wanted: str | None) -> dict:
    """What the card of a folder says of a config, by default the default or the only one; empty without a card."""
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
