"""What tests share."""

import os
import signal
from pathlib import Path

import pytest

from sft_judge.core.logs import show_messages
from sft_judge.core.manifest import git_commit

# Tiny matrices: threads would only wait for one another. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption(
        "--resume", action="store_true", help="leave out what has passed at this commit, and note what does"
    )


def pytest_configure(config):
    # a shell's background job ignores Ctrl-C, and so would all that the tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    show_messages()  # as a command does
    config.passed_file = None
    if config.getoption("--resume"):
        commit = git_commit()
        if commit is None or commit.endswith("+"):
            raise pytest.UsageError("--resume goes by the commit, and files here differ from it: commit them first")
        config.passed_file = config.rootpath / ".pytest_cache" / f"passed-{commit}"
        config.passed_file.parent.mkdir(exist_ok=True)


def pytest_collection_modifyitems(config, items):
    # Files with trainings and engines first: with several workers, the last files to be run should be quick ones.
    slow = {item.path for item in items if not item.get_closest_marker("unit")}
    items.sort(key=lambda item: item.path not in slow)
    if config.passed_file is not None and config.passed_file.is_file():
        passed = set(config.passed_file.read_text().splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]


def pytest_sessionfinish(session, exitstatus):
    if session.config.passed_file is not None and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK  # nothing left to do


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if item.config.passed_file is not None and report.when == "call" and report.passed:
        with open(item.config.passed_file, "a") as file:
            file.write(item.nodeid + "\n")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real preference data, named by SFT_JUDGE_DATA; a test that needs it skips where there is none."""
    folder = os.environ.get("SFT_JUDGE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data: SFT_JUDGE_DATA names no folder, e.g. SFT_JUDGE_DATA=../shared/data")
    return Path(folder)


FAMILIES = ("qwen2", "gemma2")


@pytest.fixture(scope="session")
def synthetic_rows() -> list[dict]:
    """Five dozen synthetic battles, hostile text among them, in folds 0 to 2."""
    from sft_judge.data.synthetic.generator import generate_split
    from sft_judge.data.synthetic.preference_model import preset_settings

    rows = generate_split(preset_settings("easy", rows=60, test_rows=1, shifted_rows=1, hostile=0.1), "train").rows
    return [{**row, "fold": place % 3} for place, row in enumerate(rows)]


@pytest.fixture(scope="session")
def synthetic_table(synthetic_rows):
    """The same as a table of battles."""
    from sft_judge.data.battles import battle_table

    return battle_table(synthetic_rows)


@pytest.fixture(scope="session")
def synthetic_file(synthetic_table, tmp_path_factory) -> Path:
    """The same as a Parquet file."""
    from sft_judge.data.battles import write_battles

    path = tmp_path_factory.mktemp("planted") / "battles.parquet"
    write_battles(path, synthetic_table)
    return path


@pytest.fixture(scope="session")
def bases(synthetic_rows, tmp_path_factory) -> dict[str, Path]:
    """A tiny random model folder for each family, its tokenizer trained on the synthetic battles."""
    from sft_judge.core.resources import find_resource
    from sft_judge.modeling.tiny_models import make_base

    frame = find_resource("prompts", "pair").read_text(encoding="utf-8")
    texts = [turn for row in synthetic_rows for name in ("prompt", "response_a", "response_b") for turn in row[name]]
    folder = tmp_path_factory.mktemp("bases")
    for family in FAMILIES:
        make_base(folder / family, family, [*texts, *[frame] * 100], hidden=64, vocab=1200, positions=512)
    return {family: folder / family for family in FAMILIES}


@pytest.fixture(scope="session", params=FAMILIES)
def base(request, bases) -> Path:
    """One of the bases after the other."""
    return bases[request.param]


@pytest.fixture(scope="session")
def judge(bases, tmp_path_factory):
    """A whole judge of random weights, of the family qwen2."""
    from helpers.judges import make_judge

    return make_judge(tmp_path_factory.mktemp("judge") / "judge", bases["qwen2"], folds_seen=[0])


@pytest.fixture(scope="session")
def each_judge(base, tmp_path_factory):
    """A whole judge of random weights, of one family after the other."""
    from helpers.judges import make_judge

    return make_judge(tmp_path_factory.mktemp("judge") / "judge", base)


@pytest.fixture(scope="session")
def folds(bases, tmp_path_factory):
    """Three judges, each of which left out the fold of its name."""
    from helpers.judges import make_judge

    folder = tmp_path_factory.mktemp("folds")
    for fold in range(3):
        make_judge(folder / f"fold-{fold}", bases["qwen2"], fold, folds_seen=sorted({0, 1, 2} - {fold}))
    return folder


@pytest.fixture(scope="session")
def sharded_base(judge, tmp_path_factory):
    """The weights of `judge` in several files and in half precision, as a base."""
    from sft_judge.modeling.loading import load_model

    folder = tmp_path_factory.mktemp("base") / "base"
    load_model(str(judge), "bfloat16").save_pretrained(folder, max_shard_size="100KB")
    return folder


@pytest.fixture
def adapters(sharded_base, judge, tmp_path):
    """Two judges that are adapters on one base: LoRA, and DoRA with its own rank."""
    from helpers.merging import add_adapter, judge_of

    folders = [
        add_adapter(sharded_base, tmp_path / "one", 1),
        add_adapter(sharded_base, tmp_path / "two", 2, use_dora=True, r=3),
    ]
    return [judge_of(folder, judge) for folder in folders]


@pytest.fixture
def command(bases, synthetic_file, tmp_path):
    """A function that gives the words of a training command; a setting of None is left out."""
    from helpers.training_runs import RECIPE

    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def words(output: str = "judge", **changes) -> list[str]:
        settings = {"model_name_or_path": bases["qwen2"], "battles": synthetic_file, "output_dir": tmp_path / output}
        pairs = {**settings, **changes}.items()
        lists = [(key, value if isinstance(value, list) else [value]) for key, value in pairs if value is not None]
        given = [str(word) for key, values in lists for word in (f"--{key}", *values)]
        return ["train", "--config", str(tmp_path / "recipe.yaml"), *given]

    return words


@pytest.fixture
def train(command, tmp_path):
    """A function that trains through the command line and gives the judge's folder."""
    from sft_judge.cli import main

    def run(output: str = "judge", **changes) -> Path:
        assert main(command(output, **changes)) == 0
        return tmp_path / output

    return run


@pytest.fixture(scope="session")
def tokenizer(base):
    """The tokenizer of each base."""
    from sft_judge.modeling.loading import load_tokenizer

    return load_tokenizer(str(base))


def prompt_with(tokenizer, budget):
    """The default template's prompt, language shown."""
    from helpers.prompt_cases import PAIR, WORDS
    from sft_judge.prompts.prompt import JudgePrompt

    return JudgePrompt(tokenizer, PAIR, WORDS, budget, language=True)


@pytest.fixture(scope="session")
def wide(tokenizer):
    """A prompt that cuts nothing."""
    from helpers.prompt_cases import WIDE

    return prompt_with(tokenizer, WIDE)


@pytest.fixture(scope="session")
def narrow(tokenizer):
    """A prompt that cuts whatever is long."""
    from helpers.prompt_cases import NARROW

    return prompt_with(tokenizer, NARROW)
