"""judge.json: what no judge has is one line, and what stands beside it is what it was written with."""

import json
import shutil

import pytest

from sft_judge.core.errors import InputError
from sft_judge.core.model_files import check_parts
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.modeling.loading import load_config, load_tokenizer

pytestmark = pytest.mark.unit


@pytest.fixture
def bound(judge, tmp_path):
    """A copy of a judge, bound to its files."""
    folder = tmp_path / "judge"
    shutil.copytree(judge, folder)
    write_spec(folder, read_spec(folder), bind=True)
    return folder


def edit(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


WRONG = {
    "verdict_words": [None, [], "AB", [1, 2, 3]],
    "verdict_ids": [None, ["1"], [True, False], [1.5]],
    "template": [None, 3, ["x"]],
    "budget": [None, 3],
    "training": [None, [], "x"],
    "frame": [[], {}, "x", {"text": "x"}],
    "base": [[], "x", {"relative": 5}],
    "parts": ["x", []],
    "swap": ["sideways", None],
    "version": [2, "1"],
    "calibration": ["x", [], {}, {"temperature": 0}, {"temperature": -1}, {"temperature": "2"}, {"temperature": True}],
}
WRONG["calibration"] += [{"temperature": float("nan")}, {"temperature": 1, "languages": 5}]
WRONG["calibration"] += [{"temperature": 1, "languages": {"German": {"temperature": 0}}}]
WRONG["calibration"] += [{"temperature": 1, "tie_temperature": 0, "tie_offset": 0}]


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_a_field_that_no_judge_has_is_one_line_that_names_the_file(name, value, bound):
    edit(bound / "judge.json", **{name: value})
    with pytest.raises(InputError, match="judge.json") as refusal:
        read_spec(bound)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"'])
def test_what_is_no_object_is_one_line_too(text, bound):
    (bound / "judge.json").write_text(text)
    with pytest.raises(InputError, match="judge.json"):
        read_spec(bound)


def test_a_changed_file_beside_judge_json_is_refused_by_whoever_loads_it(bound):
    load_config(str(bound))
    (bound / "README.md").write_text("a card")
    check_parts(bound)
    for file, change, what in (
        ("config.json", lambda file: edit(file, rms_norm_eps=0.5), "weights"),
        (
            "tokenizer.json",
            lambda file: file.write_text(file.read_text().replace('"dropout"', '"dropout" ')),
            "tokenizer",
        ),
        ("model.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1"), "weights"),
    ):
        before = (bound / file).read_bytes()
        change(bound / file)
        for load in (load_config, load_tokenizer):
            with pytest.raises(InputError, match=f"its {what} changed since judge.json"):
                load(str(bound))
        (bound / file).write_bytes(before)
    load_config(str(bound))


def test_calibrating_does_not_bind_a_judge_to_what_was_changed(bound):
    edit(bound / "config.json", rms_norm_eps=0.5)
    spec = read_spec(bound)
    spec.calibration = {"temperature": 2.0}
    write_spec(bound, spec)
    with pytest.raises(InputError, match="its weights changed"):
        check_parts(bound)
