"""Files are whole or not there."""

import errno
import os
import signal

import numpy as np
import pytest
from broken_data import photo, without_permission

from samtune.cli_inputs import check_writable
from samtune.errors import OutputError
from samtune.files import atomic_write
from samtune.images import write_image, write_mask


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_write(target) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_until_it_is_complete_a_file_does_not_appear_under_its_name(tmp_path):
    target = tmp_path / "a.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.parent == tmp_path  # elsewhere, the rename would be a copy
    assert target.read_text() == "new"


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    # tempfile's are for the owner alone, which a shared folder's other users would notice.
    (tmp_path / "plain").write_text("")
    write_mask(tmp_path / "a.png", np.ones((2, 2), dtype=bool))
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_long_but_legal_name_is_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".png")  # 255, the most that file systems allow
    write_mask(path, np.ones((2, 2), dtype=bool))
    assert path.exists()


def test_a_name_that_is_too_long_is_said_in_words(tmp_path):
    with pytest.raises(OutputError, match=r"its name is too long\. Choose a shorter one"):
        check_writable(tmp_path / ("a" * 256))
    with (
        pytest.raises(OutputError, match="its name is too long"),
        atomic_write(tmp_path / ("a" * 256)) as temporary,
    ):
        temporary.write_bytes(b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "may not be written to"),
        (errno.EROFS, "may not be written to"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_system_refuses_is_said_in_words(tmp_path, code, told):
    with (
        pytest.raises(OutputError, match=rf"a\.bin cannot be written: .*{told}"),
        atomic_write(tmp_path / "a.bin"),
    ):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    resource = pytest.importorskip("resource", reason="no such limits on this system")
    # A limit on file sizes stands in for a full disk: the write itself fails, half done.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"a\.png cannot be written"):
            write_image(tmp_path / "a.png", photo(size=(64, 64)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"out is not a folder"):
        write_mask(tmp_path / "out" / "a.png", np.ones((2, 2), dtype=bool))


def test_a_folder_where_the_file_should_be_is_named(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match=r"a\.png cannot be written: it is a folder"):
        write_mask(tmp_path / "a.png", np.ones((2, 2), dtype=bool))


def test_a_folder_without_permission_is_named(tmp_path):
    with (
        without_permission(tmp_path),
        pytest.raises(OutputError, match="may not be written to"),
    ):
        write_mask(tmp_path / "a.png", np.ones((2, 2), dtype=bool))
