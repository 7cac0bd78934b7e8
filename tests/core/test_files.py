"""Folders that appear whole: what others may read of them."""

import os
import stat

import pytest

from sft_judge.core.files import whole_folder

pytestmark = pytest.mark.unit


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request):
    """Each of these in turn."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def rights(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def private_file(path, text="x"):
    """A file as safetensors makes one."""
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_finished_folder_has_the_rights_of_the_umask(umask, tmp_path):
    with whole_folder(tmp_path / "judge") as work:
        private_file(work / "model.safetensors")
        (work / "parts").mkdir(mode=0o700)
        private_file(work / "parts" / "more.safetensors")
    assert {rights(path) for path in tmp_path.rglob("*") if path.is_file()} == {0o666 & ~umask}
    assert {rights(path) for path in tmp_path.rglob("*") if path.is_dir()} == {0o777 & ~umask}


def test_a_link_to_a_private_file_becomes_a_copy_and_that_file_stays_private(umask, tmp_path):
    own = private_file(tmp_path / "own.safetensors", "weights")
    with whole_folder(tmp_path / "judge") as work:
        os.link(own, work / "model.safetensors")
        os.symlink(own, work / "link")
    made = tmp_path / "judge" / "model.safetensors"
    assert (rights(own), rights(made), made.read_text()) == (0o600, 0o666 & ~umask, "weights")
    assert {path.name for path in made.parent.iterdir()} == {"model.safetensors", "link"}
    assert own.samefile(made) == (umask == 0o077)  # nothing to add: the link stays
