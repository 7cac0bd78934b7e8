"""The front door: help without torch, the nearest word for a misspelt one, exit statuses, one line for an error."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sft_judge import cli
from sft_judge.cli import main
from sft_judge.core.errors import GateError, InputError
from sft_judge.core.registry import GROUPS, STAGES, SYNONYMS, parse, stage_module
from sft_judge.pipelines.pipeline import outputs_of, read_pipeline, steps_of
from sft_judge.training.recipes import read_recipe

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "trl", "datasets", "numpy", "pyarrow", "pandas", "scipy", "matplotlib", "vllm")


def fails(capsys, *words) -> tuple[int, str]:
    """The status of a command that must fail, and its only line on standard error."""
    status = main([str(word) for word in words])
    said = capsys.readouterr()
    assert said.err.startswith("sft-judge: ") and said.err.count("\n") == 1, said.err
    return status, said.err


def test_no_help_imports_a_heavy_package():
    code = f"""
import contextlib, io, json, sys
from sft_judge.cli import main
from sft_judge.core.registry import STAGES

found = {{}}
for words in [["--help"], ["--version"], *([stage, "--help"] for stage in STAGES)]:
    out, status = io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            status = main(words)
        except SystemExit as leave:
            status = leave.code
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    found[" ".join(words)] = [status or 0, out.getvalue(), heavy]
print(json.dumps(found))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert len(found) == len(STAGES) + 2
    for words, (status, text, heavy) in found.items():
        assert status == 0, words
        assert heavy == [], f"sft-judge {words} imports {heavy}"
        assert "example:" in text or words == "--version", words


@pytest.mark.parametrize("child", [False, True])
def test_warnings_that_are_not_listed_reach_a_person(child):
    """In this process, and in those that an engine starts."""
    code = """
import warnings
for name, category in {"peft.tuners": UserWarning, "torch.nn": FutureWarning, "torch.jit": DeprecationWarning}.items():
    for start in ("`torch.distributed.reduce_op` is deprecated", "real trouble in"):
        warnings.warn_explicit(f"{start}, {name}", category, f"{name}.py", 1, module=name)
"""
    quiet = "import sft_judge.core.third_party, subprocess, sys\n"
    code = f"{quiet}subprocess.run([sys.executable, '-c', {code!r}])" if child else quiet + code
    env = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    shown = [line.partition(": ")[2] for line in run.stderr.splitlines() if "Warning: " in line]
    assert shown == [
        "UserWarning: `torch.distributed.reduce_op` is deprecated, peft.tuners",  # not the category that is listed
        "UserWarning: real trouble in, peft.tuners",
        "FutureWarning: real trouble in, torch.nn",
    ]


def test_help_lists_every_stage(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for stage, (_, help_) in STAGES.items():
        assert f"  {stage} " in text and help_ in text
    for group, stages in GROUPS.items():
        shown = text.split(f"\n{group}\n")[1].split("\n\n")[0]
        assert [line.split()[0] for line in shown.splitlines()] == [*stages]


def examples(stage: str) -> list[list[str]]:
    """The words of each line of a command's example, without redirections."""
    return [shlex.split(line.split(" < ")[0]) for line in stage_module(stage).EXAMPLE.splitlines()]


@pytest.mark.parametrize("stage", STAGES)
def test_the_example_of_a_command_is_one_that_it_takes(stage, monkeypatch):
    """A training's example names a model, battles and an output as well, in its recipe or itself."""
    monkeypatch.chdir(ROOT)
    for program, name, *words in examples(stage):
        assert (program, name) == ("sft-judge", stage)
        args = parse(stage, words)
        args = parse("train", args.training) if stage == "launch" else args
        if stage in ("train", "launch", "shift"):
            recipe = read_recipe(args.config, args.overrides)
            for key in ["model_name_or_path"] if stage == "shift" else ["model_name_or_path", "battles", "output_dir"]:
                assert recipe.require(key)


def test_the_demos_files_that_examples_name_are_made_by_the_demo():
    file = ROOT / "recipes" / "demo" / "pipeline.yaml"
    made = [path for step in steps_of(read_pipeline(file), file) for path in outputs_of(step)]
    named = [Path(word) for stage in STAGES for words in examples(stage) for word in words if "runs/demo/" in word]
    assert len(named) > 5
    assert [path for path in named if not {path, *path.parents} & {*made}] == []


def test_help_of_a_stage_may_come_before_or_after_its_name(capsys):
    shown = []
    for words in (["help", "predict"], ["predict", "--help"]):
        with pytest.raises(SystemExit) as leave:
            main(words)
        assert not leave.value.code
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and "sft-judge predict" in shown[0]
    assert main(["help"]) == 0 and "usage:" in capsys.readouterr().out
    assert fails(capsys, "help", "trian")[0] == 2


@pytest.mark.parametrize(
    ("word", "meant"),
    [("score", "'predict'"), ("sft", "'train'"), ("fine_tune", "'train'"), ("Fine-Tune", "'train'")]
    + [("--verion", "'--version'"), ("convert", "'import' or 'export' or 'merge'"), ("eval", "'evaluate'")],
)
def test_a_stage_by_another_name_is_found_by_its_meaning(capsys, word, meant):
    status, line = fails(capsys, word)
    assert status == 2 and f"Unknown command {word!r}. Did you mean {meant}?" in line


def test_a_synonym_is_no_stage_and_means_one():
    assert not {*SYNONYMS} & {*STAGES}
    assert {stage for meant in SYNONYMS.values() for stage in meant} <= {*STAGES}


@pytest.mark.parametrize("words", [["--help"], ["doctor", "--help"]])
def test_help_whose_reader_has_gone_is_no_traceback(words):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen([sys.executable, "-m", "sft_judge", *words], env=buffered, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


def test_no_word_at_all_prints_the_usage_and_fails(capsys):
    assert main([]) == 2
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "meant"), [("trian", "train"), ("quantise", "quantize"), ("evalaute", "evaluate")])
def test_an_unknown_stage_names_the_nearest(capsys, word, meant):
    status, line = fails(capsys, word)
    assert status == 2
    assert f"Unknown command {word!r}. Did you mean {meant!r}?" in line


def test_a_stage_like_none_lists_all(capsys):
    status, line = fails(capsys, "zzzzzz")
    assert status == 2 and "Did you mean" not in line
    assert all(stage in line for stage in STAGES)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["plant", "--output", "x", "--tie-rat", "1"], "--tie-rate"),
        (["plant", "--output", "x", "--tie-rat=1"], "--tie-rate"),
        (["base", "--family", "qwen2", "--battles", "b", "--output", "x", "--hiden", "128"], "--hidden"),
        (["run", "p.yaml", "--untill", "labels"], "--until"),
    ],
)
def test_a_misspelt_flag_names_the_nearest(capsys, tmp_path, monkeypatch, words, meant):
    monkeypatch.chdir(tmp_path)
    status, line = fails(capsys, *words)
    assert status == 2
    assert f"Did you mean {meant!r}?" in line and f"sft-judge {words[0]} --help" in line
    assert list(tmp_path.iterdir()) == []


def test_flags_are_not_abbreviated(capsys):
    status, _ = fails(capsys, "plant", "--outp", "x")
    assert status == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("a\n  b"), 2),
        (GateError("a b"), 3),
        (KeyboardInterrupt(), 130),
        (cli.Terminated(), 143),
        (FileNotFoundError(2, "No such file or directory", "x.csv"), 2),
        (OSError(28, "No space left on device", "x.parquet"), 2),
        (PermissionError(13, "Permission denied", "x"), 2),
    ],
)
def test_what_goes_wrong_is_one_line_and_its_exit_status(capsys, monkeypatch, error, status):
    def run_stage(stage, argv):
        raise error

    monkeypatch.setattr(cli, "run_stage", run_stage)
    found, line = fails(capsys, "plant", "--output", "a folder")
    assert found == status
    if status in (130, 143):
        assert line.strip().endswith("sft-judge plant --output 'a folder'"), "the command that goes on, ready to paste"
    if isinstance(error, OSError):
        assert error.filename in line and error.strerror in line
    if status in (2, 3) and not isinstance(error, OSError):
        assert "a b" in line


def test_a_bug_keeps_its_traceback(monkeypatch):
    def run_stage(stage, argv):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "run_stage", run_stage)
    with pytest.raises(ZeroDivisionError):
        main(["plant"])


def test_the_command_and_the_module_are_one(tmp_path):
    run = subprocess.run([sys.executable, "-m", "sft_judge", "nonsense"], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 2 and run.stdout == "" and run.stderr.count("\n") == 1


LIMITED = """
import resource, sys
from sft_judge.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("room", [50_000, 700_000])
def test_a_disk_that_takes_no_more_weights_is_one_line_and_leaves_nothing(room, bases, tmp_path):
    """Of a model, by safetensors; and of a training, whose adapter still fits and whose optimizer does not."""
    from sft_judge.data.battles import battle_table, write_battles

    texts = {"prompt": ["?"], "response_a": ["x"], "response_b": ["y"], "verdict": "a"}
    write_battles(tmp_path / "battles.parquet", battle_table([{"id": str(row), **texts} for row in range(8)]))
    base = bases["qwen2"]
    words = ["untrained", str(base), "--output", str(tmp_path / "judge"), "--total-budget", "400"]
    assert main(words) == 0
    words = ["merge", str(tmp_path / "judge"), str(tmp_path / "judge"), "--output", str(tmp_path / "out")]
    if room > 100_000:
        words = f"train --config tiny/train --model_name_or_path {base} --max_steps 1 --lora_r 64".split()
        words += ["--battles", str(tmp_path / "battles.parquet"), "--output_dir", str(tmp_path / "out")]
        words += ["--save_strategy", "steps", "--save_steps", "1", "--total_budget", "400"]
    run = subprocess.run([sys.executable, "-c", LIMITED, str(room), *words], capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
    assert last.startswith("sft-judge: ") and "is the disk full?" in last and not (tmp_path / "out").exists()


def test_other_errors_of_torch_keep_their_traceback(monkeypatch):
    import safetensors  # noqa: F401

    def fail(*words):
        raise RuntimeError("shapes do not go together")

    monkeypatch.setattr(cli, "run_stage", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["predict"])
