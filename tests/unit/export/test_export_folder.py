"""A folder is there whole or not at all, and says what was written into it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aes.export.digests import SUMS_FILE, check_digests, write_digests
from aes.export.folder import require_room, written_aside

_WRITER = """
import sys, time
from pathlib import Path
from aes.export.folder import written_aside

with written_aside(Path(sys.argv[1])) as folder:
    (folder / "a").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1" * 1000)
    (folder / "card").write_text("文")
    (folder / "inner").mkdir()
    (folder / "inner" / "more").write_text("more")
    write_digests(folder)
    return folder


def test_what_was_written_is_found_right_by_us_and_by_sha256sum(folder: Path) -> None:
    assert check_digests(folder) == 3
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--strict", "-c", SUMS_FILE], cwd=folder, check=True)


def test_a_changed_file_is_found(folder: Path) -> None:
    content = bytearray((folder / "weights").read_bytes())
    content[500] ^= 1
    (folder / "weights").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights is not what was written"):
        check_digests(folder)


def test_the_card_may_be_filled_in(folder: Path) -> None:
    (folder / "README.md").write_text("license: to be chosen")
    write_digests(folder)
    (folder / "README.md").write_text("license: mit")
    assert check_digests(folder) == 3


def test_a_missing_and_a_strange_file_are_found(folder: Path) -> None:
    (folder / "strange").write_text("")
    with pytest.raises(ValueError, match=r"strange is not in SHA256SUMS"):
        check_digests(folder)
    (folder / "inner" / "more").unlink()
    with pytest.raises(ValueError, match=r"lacks inner/more"):
        check_digests(folder)
    (folder / SUMS_FILE).unlink()
    with pytest.raises(ValueError, match="holds no SHA256SUMS"):
        check_digests(folder)


def test_digests_never_lead_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with (folder / SUMS_FILE).open("a") as file:
        file.write(f"{'0' * 64}  ../secret\n")
    with pytest.raises(ValueError, match=r"lacks \.\./secret"):
        check_digests(folder)


def test_a_taken_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with written_aside(tmp_path / "empty") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "empty" / "a").is_file()
    with pytest.raises(ValueError, match="is not empty"), written_aside(tmp_path / "empty"):
        raise AssertionError("entered")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), written_aside(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_no_folder_and_its_remains_go_away_next_time(tmp_path: Path) -> None:
    out = tmp_path / "out"
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    with pytest.raises(ValueError, match="another process is writing"), written_aside(out):
        raise AssertionError("entered")
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert not out.exists() and len(list(tmp_path.iterdir())) == 1
    started = time.monotonic()
    while True:
        try:
            with written_aside(out) as folder:
                (folder / "b").write_text("whole")
            break
        except ValueError:  # a kernel lets go of a dead process's files when it comes to it
            assert time.monotonic() - started < 20
            time.sleep(0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["b"]


def test_a_disk_without_room_is_refused_before(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs 1048576\.0 GiB, but only .* are free"):
        require_room(tmp_path / "not" / "there", 2**50)
    require_room(tmp_path / "not" / "there", 1)
