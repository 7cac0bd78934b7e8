"""What tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real preference data, named by SFT_JUDGE_DATA; a test that needs it skips where there is none."""
    folder = os.environ.get("SFT_JUDGE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data: SFT_JUDGE_DATA names no folder, e.g. SFT_JUDGE_DATA=../shared/data")
    return Path(folder)
