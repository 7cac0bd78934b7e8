"""A key that stands twice in a YAML file of the user's is refused: one of its values would be taken in silence."""

import pytest

from sft_judge.cli import main

pytestmark = pytest.mark.unit
RECIPE = "learning_rate: 1.0e-4\nmodel_name_or_path: x\nlearning_rate: 1.0e-5\n"
PIPELINE = "steps:\n  - stage: audit\n    name: one\n    stage: prepare\n"
MAP = "prompt: q\nresponse_a: one\nprompt: r\nresponse_b: two\n"


@pytest.mark.parametrize(
    "words, text, key",
    [
        (["train", "--config", "FILE", "--output_dir", "out"], RECIPE, "learning_rate"),
        (["run", "FILE"], PIPELINE, "stage"),
        (["sweep", "FILE"], PIPELINE, "stage"),
        (["import", "s.jsonl", "--output", "out", "--map", "FILE"], MAP, "prompt"),
        (["launch", "--config_file", "FILE", "--config", "tiny/train"], "use_cpu: true\nuse_cpu: false\n", "use_cpu"),
    ],
    ids=["recipe", "pipeline", "sweep", "map", "launch file"],
)
def test_a_key_that_stands_twice_is_one_line_and_exit_status_2(words, text, key, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "f.yaml"
    file.write_text(text)
    (tmp_path / "s.jsonl").write_text('{"q": "p", "one": "x", "two": "y"}\n')
    assert main([str(file) if word == "FILE" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert f"{key!r} occurs twice" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
