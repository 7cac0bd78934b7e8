"""Download models from the Hub into its cache at one commit, and push a judge's folder to the Hub."""

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
SMALL = ("*config.json", JUDGE, *TOKENIZER)  # everything except the weights
LOGIN = "log in (`hf auth login`, or HF_TOKEN in the environment)"


def hub_folder(
    model: str, revision: str | None = None, patterns: tuple[str, ...] = (*SMALL, *WEIGHTS), offline: bool = False
) -> Path:
    """
    Return the cached folder of a model's safetensors, configuration and tokenizer, and download it if needed.

    Args:
        model: Hub id.
        revision: branch, tag or commit; by default the main branch.
        patterns: patterns of the files to download.
        offline: use the cache only.

    Raises:
        InputError: the model or revision does not exist, is not accessible to the user, or the Hub cannot be reached.
    """
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, local_files_only=offline))
    except (OSError, ValueError, HTTPError) as error:
        where = f" at revision {revision}" if revision else ""
        why = explain_hub_error(error, model, revision)
        raise InputError(f"{model}{where}: not a local folder, and not available from the Hub: {why}.") from error


def model_folder(model: str, revision: str | None = None, gguf_file: str | None = None) -> tuple[str, str | None]:
    """
    Return the folder of a model, and the commit at which it was downloaded.

    Args:
        model: folder, GGUF file or Hub id. The commit of a folder or GGUF file is None.
        revision: see `hub_folder`.
        gguf_file: name of a GGUF file in the folder or repository; the commit is None then.

    Raises:
        InputError: a revision is given for a folder; or see `hub_folder` and `convert_gguf`.
    """
    packed = model if gguf_file is None else _gguf_of(model, gguf_file, revision)
    if gguf_file is not None or is_gguf(model):
        from sft_judge.modeling.gguf_files import converted_gguf

        return str(converted_gguf(Path(packed))), None
    if not Path(model).is_dir():
        if is_local(model):
            raise InputError(f"{model}: no such model folder.")
        folder = hub_folder(model, revision)
        return str(folder), folder.name  # the cache names a snapshot's folder by its commit
    if revision not in (None, "main"):  # "main" is ModelConfig's default
        raise InputError(
            f"model_revision is {revision!r}, but {model} is a folder, which has no revisions. Remove it, or give "
            "the model's Hub id."
        )
    return str(model), None


def is_gguf(model: str) -> bool:
    """Return True if `model` is the path of a GGUF file."""
    return model.endswith(".gguf") and Path(model).is_file()


def _gguf_of(model: str, name: str, revision: str | None) -> str:
    """Return the path of a GGUF file in a folder or repository, and download it if needed."""
    if is_local(model):
        file = Path(model) / name
        if not file.is_file():
            raise InputError(f"gguf_file is {name!r}, but {file} is not a file.")
        return str(file)
    try:
        return hf_hub_download(model, name, revision=revision)
    except (OSError, ValueError, HTTPError) as error:
        why = explain_hub_error(error, model, revision)
        raise InputError(f"{model}: its file {name} is not available from the Hub: {why}.") from error


def judge_folder(judge: str, revision: str | None = None, offline: bool = False) -> str:
    """
    Return the folder of a judge. For a plain model on the Hub, the folder does not hold its weights.

    Args:
        judge: a folder, which need not exist, or a Hub id, which may end in `@REVISION`.
        revision: branch, tag or commit on the Hub.
        offline: use the cache only.

    Raises:
        InputError: a folder is given with a revision, or an id with two; or see `hub_folder`.
    """
    name, at, suffix = str(judge).partition("@")
    if Path(judge).is_dir() or is_local(name):
        if revision is not None:
            raise InputError(
                f"revision is {revision!r}, but {judge} is a folder, which has none. Remove it, or give a Hub id."
            )
        return str(judge)  # the caller reports what is missing
    if at and revision not in (None, suffix):
        raise InputError(f"{judge} names revision {suffix!r}, but revision is {revision!r}. Remove one of them.")
    small = hub_folder(name, suffix or revision, SMALL, offline)
    if not (small / JUDGE).is_file():
        return str(small)  # without weights: the caller raises an error, or needs only the tokenizer
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
    Upload a judge's folder: weights, tokenizer, judge.json, manifests and model card, without remains of its training.

    Args:
        folder: the judge's folder; it is not changed.
        repo_id: `NAMESPACE/NAME`, or a name in the user's namespace. The repository is created if needed.
        private: create a private repository, and refuse a public one; by default the namespace decides.
        token: Hub token; by default that of the login.
        revision: a branch, created if needed; by default main.
        message: commit message.
        card: text of README.md, instead of the folder's own.
        report: a folder of `sft-judge evaluate`, uploaded as `report/`.
        overwrite_card: replace a card that was edited on the Hub since the last push.

    Raises:
        InputError: the Hub cannot be reached or refuses, the repository holds something other than a judge, or its
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
                delete_patterns=[*WEIGHTS, "*config.json", *TOKENIZER_FILES],  # files of an earlier form of the judge
            )
    except InputError:
        raise
    except (OSError, ValueError, HTTPError) as error:
        raise InputError(
            f"{folder} was not pushed to {repo_id}: {explain_hub_error(error, repo_id, revision)}."
        ) from error


def _check_base(adapter: Path) -> None:
    """Raise `InputError` if an adapter's base is a local folder, which nobody could load from the Hub."""
    base = read_adapter_config(adapter)[BASE]
    if is_local(base):
        raise InputError(
            f"{adapter} is an adapter on {base}, a local folder that nobody else has. Merge it, and push the merged "
            f"judge: sft-judge merge {adapter} --output DIR."
        )


def _put_card(file: Path, card: str | None, repo_id: str, revision: str | None) -> None:
    """Write the repository's name into the card's snippet, and seal the card so that the next push detects an edit."""
    text = card if card is not None else file.read_text(encoding="utf-8") if file.is_file() else None
    if text is not None:
        file.unlink(missing_ok=True)  # the staged file is a link to the folder's own card
        file.write_text(seal(name_in_snippet(text, repo_id, revision)), encoding="utf-8", newline="")


def _check_target(hub: HfApi, repo_id: str, revision: str | None, private: bool | None) -> ModelInfo | None:
    """
    Return what a repository already holds at the revision, or on the main branch for a new one; None if there is none.

    Raises:
        InputError: a push would replace a model that is not a judge, or publish a judge that should be private.
    """
    try:
        info = hub.model_info(repo_id, revision=revision)
    except RevisionNotFoundError:  # the branch will be created from main
        info = hub.model_info(repo_id)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None
    files = [file.rfilename for file in info.siblings or []]
    if JUDGE not in files and any(name.endswith((".safetensors", ".bin", ".gguf")) for name in files):
        raise InputError(f"{repo_id} is taken: it holds a model that is not a judge. Give --repo another name.")
    if private and not info.private:
        raise InputError(
            f"{repo_id} is public, but a private repository was asked for. Make it private in its settings at "
            f"https://huggingface.co/{repo_id}/settings, or give --repo another name."
        )
    return info


def _check_card(hub: HfApi, there: ModelInfo, card: Path) -> None:
    """Raise `InputError` if the card on the Hub was edited, because the push would replace the edits."""
    if not card.is_file() or CARD not in [file.rfilename for file in there.siblings or []]:
        return
    with TemporaryDirectory() as fresh:
        text = Path(hub.hf_hub_download(there.id, CARD, revision=there.sha, local_dir=fresh)).read_text(
            encoding="utf-8"
        )
    if was_edited(text, card.read_text(encoding="utf-8")):
        raise InputError(
            f"The card of {there.id} was edited on the Hub since it was pushed. Copy its README.md into the folder "
            f"(hf download {there.id} {CARD} --local-dir DIR), or give --overwrite-card."
        )


def explain_hub_error(error: Exception, repo_id: str, revision: str | None) -> str:
    """
    Explain in one line what failed on the Hub, and what to do.

    Args:
        error: the exception.
        repo_id: the repository.
        revision: the revision that was asked for, or None.
    """
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return f"it is gated. Accept its licence at https://huggingface.co/{repo_id}, then {LOGIN}"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision!r}"
    if isinstance(error, LocalTokenNotFoundError) or (
        status == 401 and not isinstance(error, RepositoryNotFoundError)
    ):
        return f"the Hub asks for a valid token with the necessary permissions: {LOGIN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"no repository of this name is accessible to you. Check the name, or {LOGIN}"
    if status == 403:
        return f"your token has no permission ({one_line(error)}). Use a token with write access, or another name"
    return one_line(error)
