"""Samples of unknown shape say which are known, and a submission with a hole is never put in place."""

import numpy as np
import pytest

from helpers.submissions import IDS
from sft_judge.inference.submission import check_submission, read_sample, write_submission

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"id,winner\n1,left\n", "known words for a winner"),
        (b"id,other_id,winner\n1,2,model_a\n", "(LMSYS) or"),
        (b"id,p_a,p_tie\n1,2,3\n", "(LMSYS) or"),
        (b"", "columns none"),
        (b"id,score\n1,2\n", "(LMSYS) or"),
        (b"id,winner\n", "a header but no rows"),
        (b"id,winner\n1,model_a\n1,model_b\n", "duplicate id"),
        (b"id,winner\n1\n", "row 1: 1 values, expected 2"),
        (b"\xff\xfe\x00garbage", "not a readable CSV"),
    ],
)
def test_a_sample_of_unknown_shape_says_which_are_known(tmp_path, content, said):
    from sft_judge.core.errors import InputError

    (tmp_path / "sample.csv").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_sample(tmp_path / "sample.csv")
    assert said in str(error.value)


def test_a_submission_with_a_hole_is_never_put_in_place(tmp_path):
    header = "id,winner_model_a,winner_model_b,winner_tie\n"
    (tmp_path / "lmsys.csv").write_text(header + "".join(f"{i},0.3,0.3,0.4\n" for i in IDS))
    sample = read_sample(tmp_path / "lmsys.csv")
    probs = np.full((4, 3), 1 / 3)
    probs[2, 1] = np.nan
    with pytest.raises(RuntimeError):
        write_submission(tmp_path / "out.csv", sample, probs)
    assert not (tmp_path / "out.csv").exists()
    (tmp_path / "out.csv").write_text(f"{header}10,1,0,0\n")
    with pytest.raises(RuntimeError, match="ids"):
        check_submission(tmp_path / "out.csv", sample)
