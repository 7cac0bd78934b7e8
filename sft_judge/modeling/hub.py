"""Models on the hub: the folder in its cache that holds one, at one commit."""

from pathlib import Path

from huggingface_hub import snapshot_download

from sft_judge.core.errors import InputError
from sft_judge.core.model_files import is_local

WEIGHTS = ("model*.safetensors*", "*config.json")
TOKENIZER = ("tokenizer*", "*.jinja", "*.txt", "*map.json", "vocab.json", "added_tokens.json")


def hub_folder(model: str, revision: str | None = None) -> Path:
    """
    The folder of a model's safetensors, configuration and tokenizer in the hub's cache, downloaded where need be.

    Args:
        model: a hub id.
        revision: a branch, tag or commit; by default the main branch.

    Raises:
        InputError: there is no such model or revision, or the hub cannot be reached.
    """
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=[*WEIGHTS, *TOKENIZER]))
    except (OSError, ValueError) as error:
        where = f" at revision {revision}" if revision else ""
        raise InputError(f"{model}{where}: its files cannot be had ({str(error).splitlines()[0]}).") from error


def model_folder(model: str, revision: str | None = None) -> tuple[str, str | None]:
    """
    The folder of a model, and the commit that it was downloaded at.

    Args:
        model: a folder, whose commit is None, or a hub id.
        revision: see `hub_folder`.

    Raises:
        InputError: a revision is asked for of a folder, which has none; or see `hub_folder`.
    """
    if not Path(model).is_dir():
        if is_local(model):
            raise InputError(f"{model}: no such model folder.")
        folder = hub_folder(model, revision)
        return str(folder), folder.name  # the cache calls a snapshot by its commit
    if revision not in (None, "main"):  # "main" is ModelConfig's default
        raise InputError(
            f"model_revision is {revision!r}, but {model} is a folder, which has no revisions. Leave it out, or name "
            "the model by its hub id."
        )
    return str(model), None
