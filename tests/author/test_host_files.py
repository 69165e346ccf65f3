"""Files are read within bounds, and replaced as a whole or not at all."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from signing_lab import left_behind

from sipl.author.host_files import OWNER_ONLY, NewContent, read_file, replace_file, same_file
from sipl.errors import FileError, UsageError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


class TestRead:
    def test_up_to_the_bound(self, file):
        assert read_file(str(file), 3, "a thing") == b"old"

    def test_beyond_the_bound(self, file):
        with pytest.raises(FileError, match=r"has 3 bytes, 2 are possible \(is it a thing\?\)"):
            read_file(str(file), 2, "a thing")

    @pytest.mark.parametrize("name", ["missing", "a\0b", ""])
    def test_missing(self, tmp_path, name):
        with pytest.raises(FileError, match="cannot be read"):
            read_file(str(tmp_path / name) if name else "", 3, "a thing")

    def test_directory_and_fifo(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        for name in ("", "fifo"):
            with pytest.raises(FileError, match="no regular file"):
                read_file(str(tmp_path / name), 3, "a thing")

    def test_a_file_that_says_it_is_empty(self):
        """Files of /proc have no size; what is read counts."""
        if not os.path.exists("/proc/self/status"):
            pytest.skip("there is no /proc here")
        with pytest.raises(FileError, match="more than 16 bytes"):
            read_file("/proc/self/status", 16, "a thing")


class TestReplace:
    def test_content_and_mode(self, file):
        os.chmod(file, 0o641)
        replace_file(str(file), b"new")
        assert file.read_bytes() == b"new"
        assert stat.S_IMODE(file.stat().st_mode) == 0o641
        assert left_behind(file.parent) == {"file"}

    def test_a_new_file_gets_the_usual_mode(self, tmp_path):
        replace_file(str(tmp_path / "new"), b"x")
        mask = os.umask(0)
        os.umask(mask)
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~mask

    def test_owner(self, file):
        if os.geteuid():
            pytest.skip("only root can give files away")
        os.chown(file, 4711, 4712)
        replace_file(str(file), b"new")
        assert (file.stat().st_uid, file.stat().st_gid) == (4711, 4712)

    def test_an_owner_that_cannot_be_kept(self, file, monkeypatch):
        def refuse(*_):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        real = os.stat
        monkeypatch.setattr(os, "fchown", refuse)
        monkeypatch.setattr(os, "stat", lambda path, **how: _owned_by_another(real(path, **how)))
        with pytest.raises(FileError, match="its owner cannot be kept"):
            replace_file(str(file), b"new")
        assert file.read_bytes() == b"old"
        monkeypatch.undo()
        assert left_behind(file.parent) == {"file"}

    def test_extended_attributes(self, file):
        try:
            os.setxattr(file, "user.note", b"kept")
        except (OSError, AttributeError):
            pytest.skip("this file system has no extended attributes")
        replace_file(str(file), b"new")
        assert os.getxattr(file, "user.note") == b"kept"

    def test_a_link_stays_one(self, file, tmp_path):
        link = tmp_path / "link"
        link.symlink_to("file")
        replace_file(str(link), b"new")
        assert link.is_symlink()
        assert file.read_bytes() == b"new"

    def test_a_directory_and_a_fifo_stay(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        for name in ("", "fifo"):
            with pytest.raises(FileError, match="no regular file"):
                replace_file(str(tmp_path / name), b"new")

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(FileError, match="cannot be written: No such file"):
            replace_file(str(tmp_path / "missing" / "file"), b"new")

    def test_a_long_name(self, tmp_path):
        path = tmp_path / ("n" * 255)
        replace_file(str(path), b"new")
        assert path.read_bytes() == b"new"


class TestNothingHalf:
    @pytest.mark.parametrize("call", ["write", "fsync", "replace", "fchmod"])
    def test_every_step_can_fail(self, file, monkeypatch, call):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, call, full)
        with pytest.raises(FileError, match="No space left on device"):
            replace_file(str(file), b"new" * 1000)
        monkeypatch.undo()
        assert file.read_bytes() == b"old"
        assert left_behind(file.parent) == {"file"}

    def test_a_short_write_goes_on(self, file, monkeypatch):
        real = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:2]))
        replace_file(str(file), b"new content")
        assert file.read_bytes() == b"new content"

    def test_interrupted_in_the_middle(self, file, monkeypatch):
        def interrupt(fd):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            replace_file(str(file), b"new")
        monkeypatch.undo()
        assert file.read_bytes() == b"old"
        assert left_behind(file.parent) == {"file"}

    def test_the_content_is_on_the_disk_before_it_has_its_name(self, file, monkeypatch):
        steps = []
        for name in ("fsync", "replace"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *words, real=real, name=name: (steps.append(name), real(*words))[1])
        replace_file(str(file), b"new")
        assert steps == ["fsync", "replace", "fsync"]

    def test_a_block_that_is_left_without_commit(self, file):
        with NewContent(str(file), b"new"):
            assert len(left_behind(file.parent)) == 2
        assert left_behind(file.parent) == {"file"}
        assert file.read_bytes() == b"old"


class TestSecrets:
    def test_mode(self, tmp_path):
        old = os.umask(0)
        try:
            with NewContent(str(tmp_path / "key"), b"secret", mode=OWNER_ONLY, fresh=True) as new:
                assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600]
                new.commit(replace=False)
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600

    def test_the_mode_of_an_old_file_does_not_count(self, file):
        os.chmod(file, 0o644)
        with NewContent(str(file), b"secret", mode=OWNER_ONLY, fresh=True) as new:
            new.commit(replace=True)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_nothing_is_replaced_unasked(self, file):
        with NewContent(str(file), b"new", fresh=True) as new, pytest.raises(UsageError, match="exists already"):
            new.commit(replace=False)
        assert file.read_bytes() == b"old"

    @pytest.mark.parametrize("target", ["file", "nowhere"])
    def test_a_link_is_not_followed(self, file, tmp_path, target):
        link = tmp_path / "link"
        link.symlink_to(target)
        with NewContent(str(link), b"secret", mode=OWNER_ONLY, fresh=True) as new:
            with pytest.raises(UsageError):
                new.commit(replace=False)
            new.commit(replace=True)
        assert not link.is_symlink()
        assert file.read_bytes() == b"old"
        assert not (tmp_path / "nowhere").exists()

    def test_a_reserved_name_is_given_back(self, tmp_path, monkeypatch):
        def fail(*_):
            raise OSError(errno.EIO, "Input/output error")

        with NewContent(str(tmp_path / "key"), b"secret", fresh=True) as new:
            monkeypatch.setattr(os, "replace", fail)
            with pytest.raises(FileError, match="Input/output error"):
                new.commit(replace=False)
        assert left_behind(tmp_path) == set()


def test_same_file(file, tmp_path):
    os.link(file, tmp_path / "other")
    assert same_file(str(file), str(tmp_path / "other"))
    assert not same_file(str(file), str(tmp_path / "missing"))


def _owned_by_another(found):
    fields = list(found)
    fields[4] += 1
    return os.stat_result(fields)
