"""Models on the hub: the folder in its cache that holds one at one commit, and the way of a judge's folder there."""

from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitInfo, HfApi, ModelInfo, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sft_judge.core.errors import InputError, one_line
from sft_judge.core.model_files import (
    ADAPTER_WEIGHTS,
    BASE,
    JUDGE,
    TOKENIZER_FILES,
    is_adapter,
    is_local,
    read_adapter_config,
)
from sft_judge.modeling.hub_card import CARD, name_in_snippet, seal, was_edited
from sft_judge.modeling.hub_files import stage_files

WEIGHTS = ("model*.safetensors*", ADAPTER_WEIGHTS)
TOKENIZER = ("tokenizer*", "*.jinja", "*.txt", "*map.json", "vocab.json", "added_tokens.json")
SMALL = ("*config.json", JUDGE, *TOKENIZER)  # all but the weights
LOGIN = "log in (`hf auth login`, or HF_TOKEN in the environment)"


def hub_folder(
    model: str, revision: str | None = None, patterns: tuple[str, ...] = (*SMALL, *WEIGHTS), offline: bool = False
) -> Path:
    """
    The folder of a model's safetensors, configuration and tokenizer in the hub's cache, downloaded where need be.

    Args:
        model: a hub id.
        revision: a branch, tag or commit; by default the main branch.
        patterns: of the files to have.
        offline: take what the cache holds, and ask nobody.

    Raises:
        InputError: there is no such model or revision, it is closed to the user, or the hub cannot be reached.
    """
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, local_files_only=offline))
    except (OSError, ValueError, HTTPError) as error:
        where = f" at revision {revision}" if revision else ""
        why = explain_hub_error(error, model, revision)
        raise InputError(f"{model}{where}: no folder here, and not to be had from the hub: {why}.") from error


def model_folder(model: str, revision: str | None = None, gguf_file: str | None = None) -> tuple[str, str | None]:
    """
    The folder of a model, and the commit that it was downloaded at.

    Args:
        model: a folder or a GGUF file, whose commit is None, or a hub id.
        revision: see `hub_folder`.
        gguf_file: name of the GGUF file to take of a folder or a hub id, whose commit is None then.

    Raises:
        InputError: a revision is asked for of a folder, which has none; or see `hub_folder` and `convert_gguf`.
    """
    packed = model if gguf_file is None else _gguf_of(model, gguf_file, revision)
    if gguf_file is not None or is_gguf(model):
        from sft_judge.modeling.gguf_files import converted_gguf

        return str(converted_gguf(Path(packed))), None
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


def is_gguf(model: str) -> bool:
    """Whether a model is given as a GGUF file."""
    return model.endswith(".gguf") and Path(model).is_file()


def _gguf_of(model: str, name: str, revision: str | None) -> str:
    """The path of a GGUF file of a folder, or of a hub id, downloaded where need be."""
    if is_local(model):
        file = Path(model) / name
        if not file.is_file():
            raise InputError(f"gguf_file is {name!r}, but {file} is no file.")
        return str(file)
    try:
        return hf_hub_download(model, name, revision=revision)
    except (OSError, ValueError, HTTPError) as error:
        why = explain_hub_error(error, model, revision)
        raise InputError(f"{model}: its file {name} is not to be had from the hub: {why}.") from error


def judge_folder(judge: str, revision: str | None = None, offline: bool = False) -> str:
    """
    The folder of a judge; of a plain model on the hub, a folder without its weights.

    Args:
        judge: a folder, there or not, or a hub id, which may end in `@REVISION`.
        revision: a branch, tag or commit of the hub.
        offline: take what the hub's cache holds, and ask nobody.

    Raises:
        InputError: a folder is given with a revision, an id with two; or see `hub_folder`.
    """
    name, at, suffix = str(judge).partition("@")
    if Path(judge).is_dir() or is_local(name):
        if revision is not None:
            raise InputError(
                f"revision is {revision!r}, but {judge} is a folder, which has none. Leave it out, or give a hub id."
            )
        return str(judge)  # who reads it says what is missing
    if at and revision not in (None, suffix):
        raise InputError(f"{judge} names revision {suffix!r}, and revision is {revision!r}. Leave one of them out.")
    small = hub_folder(name, suffix or revision, SMALL, offline)
    if not (small / JUDGE).is_file():
        return str(small)  # gigabytes of weights would come for an error, or for a tokenizer alone
    return str(hub_folder(name, small.name, offline=offline))


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str = "A judge by sft_judge",
    card: str | None = None,
    report: Path | None = None,
    overwrite_card: bool = False,
) -> CommitInfo:
    """
    Upload a judge's folder: weights, tokenizer, judge.json, manifests, card; no leftovers of its training.

    Args:
        folder: the judge's. It stays as it is.
        repo_id: `NAMESPACE/NAME`, or a name in the user's own space; made where it does not exist.
        private: make a private repository, and refuse a public one; by default the namespace decides.
        token: of the hub; by default that of the login.
        revision: a branch, made where it does not exist; by default main.
        message: of the commit.
        card: text of README.md, in place of the folder's own.
        report: a folder of `sft-judge evaluate`, uploaded as `report/`.
        overwrite_card: replace a card that was edited on the hub since it was pushed.

    Raises:
        InputError: the hub cannot be reached, or refuses, or the repository holds something else than a judge, or its
            card was edited. Nothing is uploaded then.
    """
    if is_adapter(folder):
        _check_base(folder)
    hub = HfApi(token=token)
    try:
        repo_id = repo_id if "/" in repo_id else f"{hub.whoami()['name']}/{repo_id}"
        with TemporaryDirectory() as staging:
            stage_files(Path(folder), Path(staging), report)
            _put_card(Path(staging) / CARD, card, repo_id, revision)
            there = _check_target(hub, repo_id, revision, private)
            if there is not None and not overwrite_card:
                _check_card(hub, there, Path(staging) / CARD)
            hub.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                hub.create_branch(repo_id, branch=revision, exist_ok=True)
            return hub.upload_folder(
                repo_id=repo_id,
                folder_path=staging,
                revision=revision,
                commit_message=message,
                delete_patterns=[*WEIGHTS, "*config.json", *TOKENIZER_FILES],  # of another form of the judge
            )
    except InputError:
        raise
    except (OSError, ValueError, HTTPError) as error:
        raise InputError(
            f"{folder} was not pushed to {repo_id}: {explain_hub_error(error, repo_id, revision)}."
        ) from error


def _check_base(adapter: Path) -> None:
    """Raise `InputError` where an adapter's base is a folder of this machine: nobody could load it from the hub."""
    base = read_adapter_config(adapter)[BASE]
    if is_local(base):
        raise InputError(
            f"{adapter} is an adapter on {base}, a folder of this machine, which nobody else has. Merge it, and push "
            f"the merged judge: sft-judge merge {adapter} --output DIR."
        )


def _put_card(file: Path, card: str | None, repo_id: str, revision: str | None) -> None:
    """Name the repository in the card's snippet, and seal it, so that an edit on the hub is seen at the next push."""
    text = card if card is not None else file.read_text(encoding="utf-8") if file.is_file() else None
    if text is not None:
        file.unlink(missing_ok=True)  # a link to the folder's own
        file.write_text(seal(name_in_snippet(text, repo_id, revision)), encoding="utf-8", newline="")


def _check_target(hub: HfApi, repo_id: str, revision: str | None, private: bool | None) -> ModelInfo | None:
    """
    What is in a repository already, at the revision or at what it will be made from; None where there is no such.

    Raises `InputError` where a push would replace another model than a judge, or show a private judge to all.
    """
    try:
        info = hub.model_info(repo_id, revision=revision)
    except RevisionNotFoundError:  # a branch to be made, from the main one
        info = hub.model_info(repo_id)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None
    files = [file.rfilename for file in info.siblings or []]
    if JUDGE not in files and any(name.endswith((".safetensors", ".bin", ".gguf")) for name in files):
        raise InputError(f"{repo_id} is taken: it holds a model that is no judge. Give --repo another name.")
    if private and not info.private:
        raise InputError(
            f"{repo_id} is public, and was asked to be private. Change that in its settings at "
            f"https://huggingface.co/{repo_id}/settings, or give --repo another name."
        )
    return info


def _check_card(hub: HfApi, there: ModelInfo, card: Path) -> None:
    """Raise `InputError` where the card on the hub holds somebody's edits, which the push would replace."""
    if not card.is_file() or CARD not in [file.rfilename for file in there.siblings or []]:
        return
    with TemporaryDirectory() as fresh:
        text = Path(hub.hf_hub_download(there.id, CARD, revision=there.sha, local_dir=fresh)).read_text(
            encoding="utf-8"
        )
    if was_edited(text, card.read_text(encoding="utf-8")):
        raise InputError(
            f"The card of {there.id} was edited on the hub since it was pushed. Copy its README.md into the folder "
            f"(hf download {there.id} {CARD} --local-dir DIR), or give --overwrite-card."
        )


def explain_hub_error(error: Exception, repo_id: str, revision: str | None) -> str:
    """Say in one line what went wrong on the way to the hub, and what to do."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return f"it is gated. Accept its licence at https://huggingface.co/{repo_id}, then {LOGIN}"
    if isinstance(error, RevisionNotFoundError):
        return f"the hub has no revision {revision!r} of it"
    if isinstance(error, LocalTokenNotFoundError) or (
        status == 401 and not isinstance(error, RepositoryNotFoundError)
    ):
        return f"the hub asks for a valid token with the right to do so: {LOGIN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no repository of this name that is open to you. Check the name, or {LOGIN}"
    if status == 403:
        return f"your token has no right to do so ({one_line(error)}). Take one with write access, or another name"
    return one_line(error)
