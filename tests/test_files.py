"""Files are written whole or not at all."""

import os
import stat

import pytest

from gamp_theory.files import replacing


def test_replacing_leaves_the_old_file_when_the_new_one_fails(tmp_path):
    path = tmp_path / "data.nc"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_a_plain_one(tmp_path):
    plain, path = tmp_path / "plain", tmp_path / "data.nc"
    plain.touch()
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path  # the same file system, or it could not be renamed
        assert temporary.suffix == ".nc"  # writers choose the format by it
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(os.stat(path).st_mode) == stat.S_IMODE(os.stat(plain).st_mode)
