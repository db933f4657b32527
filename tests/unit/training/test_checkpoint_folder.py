"""A checkpoint is whole or does not count, whatever happens to the disk."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from aes.cli.launch import run_ranks
from aes.ranks import ALONE
from aes.training.checkpoint import Manifest, find_resumable, read_checkpoint
from aes.training.checkpoint.folder import CheckpointFolder
from aes.training.checkpoint.manifest import MANIFEST_FILE
from aes.training.checkpoint.resumable import step_name

KIB = 1024


def manifest(step: int) -> Manifest:
    return Manifest(
        step=step,
        total_steps=9,
        epoch=0,
        steps_in_epoch=step,
        micro_batches_in_epoch=2 * step,
        num_ranks=1,
        strategy="single",
        skipped_steps=0,
        log_bytes=0,
        elapsed_s=1.5,
        wandb_id=None,
        best=None,
        validations=({"step": 1, "val/qwk/total": None},),
        settings={"optim.lr": 0.001, "data.名": "春"},
        versions={},
    )


def content(step: int, size: int = 64 * KIB) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        paths = [folder / "state.ckpt", folder / "rank-00000.pt"]
        for path in paths:
            path.write_bytes(bytes([step]) * size)
        return paths

    return write


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """With the checkpoints of steps 2 and 4."""
    folder = CheckpointFolder(tmp_path / "checkpoints", ranks=ALONE, keep_last=2)
    for step in (2, 4):
        folder.write(manifest(step), content(step))
    return folder


def names(folder: CheckpointFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}


def test_the_newest_is_found_with_what_was_said(folder: CheckpointFolder) -> None:
    found = find_resumable(folder.path)
    assert found is not None and found.folder == folder.path / step_name(4)
    assert found.passed_over == () and found.told == []
    files = found.manifest.files
    assert set(files) == {"state.ckpt", "rank-00000.pt"}
    assert files["state.ckpt"].bytes == 64 * KIB
    assert found.manifest.settings == manifest(4).settings
    assert found.manifest.validations == manifest(4).validations


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    assert find_resumable(tmp_path / "checkpoints") is None
    (tmp_path / "checkpoints" / ".saving-abc").mkdir(parents=True)
    assert find_resumable(tmp_path / "checkpoints") is None


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_bit(path: Path) -> None:
    found = bytearray(path.read_bytes())
    found[len(found) // 2] ^= 1
    path.write_bytes(found)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "name", "reason"),
    [
        (truncate, "state.ckpt", "state.ckpt has 65535 bytes instead of 65536"),
        (flip_bit, "state.ckpt", "state.ckpt does not hold what was written"),
        (remove, "rank-00000.pt", "rank-00000.pt cannot be read"),
        (remove, MANIFEST_FILE, "it has no manifest.json"),
        (truncate, MANIFEST_FILE, "manifest.json cannot be read"),
        (flip_bit, MANIFEST_FILE, "manifest.json"),
    ],
)
def test_a_broken_one_is_passed_over_with_its_reason(
    folder: CheckpointFolder, damage: Callable[[Path], None], name: str, reason: str
) -> None:
    newest = folder.path / step_name(4)
    damage(newest / name)
    found = find_resumable(folder.path)
    assert found is not None and found.manifest.step == 2
    (told,) = found.told
    assert told.startswith(f"passed over {step_name(4)}: ") and reason in told
    with pytest.raises(ValueError, match="is not whole"):
        read_checkpoint(newest)
    folder.tidy(found)
    assert names(folder) == {step_name(2), f".broken-{step_name(4)}"}


def test_a_number_changed_in_the_manifest_is_noticed(folder: CheckpointFolder) -> None:
    file = folder.path / step_name(4) / MANIFEST_FILE
    file.write_text(file.read_text().replace('"epoch": 0', '"epoch": 1'))
    found = find_resumable(folder.path)
    assert found is not None and found.told == [
        f"passed over {step_name(4)}: {MANIFEST_FILE} was changed"
    ]


def test_if_none_is_whole_nothing_begins_in_silence(folder: CheckpointFolder) -> None:
    for step in (2, 4):
        truncate(folder.path / step_name(step) / "state.ckpt")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole") as told:
        find_resumable(folder.path)
    assert step_name(2) in str(told.value) and step_name(4) in str(told.value)


def test_two_and_the_best_are_kept(folder: CheckpointFolder) -> None:
    folder.link_best(2)
    for step in (5, 6):
        folder.write(manifest(step), content(step))
        folder.prune(2)
    assert names(folder) == {step_name(2), step_name(5), step_name(6), "best"}
    assert (folder.path / "best").readlink() == Path(step_name(2))
    folder.link_best(6)
    folder.prune(6)
    assert names(folder) == {step_name(5), step_name(6), "best"}
    assert read_checkpoint(folder.path / "best").manifest.step == 6


def test_a_step_may_be_written_again(folder: CheckpointFolder) -> None:
    folder.write(manifest(4), content(9))
    found = find_resumable(folder.path)
    assert found is not None and (found.folder / "state.ckpt").read_bytes()[0] == 9
    assert names(folder) == {step_name(2), step_name(4)}


def test_what_a_kill_left_is_cleared(folder: CheckpointFolder) -> None:
    (folder.path / ".saving-x").mkdir()
    (folder.path / ".saving-x" / "state.ckpt").write_bytes(b"half")
    (folder.path / ".removing-step-00000001").mkdir()
    (folder.path / ".best-123").symlink_to("step-00000001")
    folder.tidy(find_resumable(folder.path))
    assert names(folder) == {step_name(2), step_name(4)}


def test_one_process_at_a_time(folder: CheckpointFolder) -> None:
    script = (
        "import sys; from pathlib import Path; from aes.ranks import ALONE\n"
        "from aes.training.checkpoint.folder import CheckpointFolder\n"
        "folder = CheckpointFolder(Path(sys.argv[1]), ranks=ALONE, keep_last=2)\n"
        "folder.claim(); print('in', flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(folder.path)]
    folder.claim()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode and "another process trains in" in done.stderr
    folder.release()
    assert subprocess.run(command, capture_output=True, check=False).stdout == b"in\n"


def test_an_error_of_ours_is_not_taken_for_one_of_the_disk(folder: CheckpointFolder) -> None:
    def fail(path: Path) -> list[Path]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        folder.write(manifest(6), fail)


# Disks that do not take it


def tensors(size: int) -> Callable[[Path], list[Path]]:
    """As large a file as torch writes it."""

    def write(folder: Path) -> list[Path]:
        torch.save({"weights": torch.zeros(size // 4)}, folder / "state.ckpt")
        return [folder / "state.ckpt"]

    return write


def require_refused(folder: CheckpointFolder, reason: str, size: int = 4096 * KIB) -> None:
    before = names(folder)
    with pytest.raises(ValueError, match="cannot write the checkpoint of step 6") as told:
        folder.write(manifest(6), content(6, size))
    with pytest.raises(ValueError, match="cannot write the checkpoint of step 6"):
        folder.write(manifest(6), tensors(size))
    assert reason in str(told.value) and "\n" not in str(told.value)
    assert names(folder) == before
    found = find_resumable(folder.path)
    assert found is not None and found.manifest.step == 4


@pytest.fixture
def limited() -> Iterator[None]:
    """No file may be larger than 128 KiB, which is what a full disk looks like to a process."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128 * KIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_file_that_may_not_grow(folder: CheckpointFolder, limited: None) -> None:
    require_refused(folder, os.strerror(errno.EFBIG))


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    folder = CheckpointFolder(tmp_path / "checkpoints", ranks=ALONE, keep_last=2)
    with pytest.raises(ValueError, match="cannot write the checkpoint of step 1 into"):
        folder.write(manifest(1), content(1))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    folder = CheckpointFolder(small_disk / "checkpoints", ranks=ALONE, keep_last=2)
    for step in (2, 4):
        folder.write(manifest(step), content(step))
    require_refused(folder, os.strerror(errno.ENOSPC))
    folder.write(manifest(6), content(6))  # once there is room, it goes on


def test_a_read_only_disk(small_disk: Path) -> None:
    folder = CheckpointFolder(small_disk / "checkpoints", ranks=ALONE, keep_last=2)
    for step in (2, 4):
        folder.write(manifest(step), content(step))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    require_refused(folder, os.strerror(errno.EROFS), size=KIB)


def test_what_one_rank_cannot_write_no_rank_has_written(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        """
import errno, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from aes.ranks import find_ranks
from aes.training.checkpoint.folder import CheckpointFolder
from test_checkpoint_folder import manifest

ranks = find_ranks()
ranks.connect("cpu")
folder = CheckpointFolder(Path(sys.argv[1]) / "checkpoints", ranks=ranks, keep_last=2)

def write(fails):
    def write_files(aside):
        if fails and ranks.rank == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        path = aside / f"rank-{ranks.rank:05d}.pt"
        path.write_bytes(b"x")
        return [path]
    return write_files

folder.write(manifest(2), write(False))
try:
    folder.write(manifest(4), write(True))
except ValueError as error:
    (Path(sys.argv[1]) / f"told-{ranks.rank}").write_text(str(error))
ranks.disconnect()
""",
        encoding="utf-8",
    )
    assert (
        run_ranks([sys.executable, str(script), str(tmp_path), str(Path(__file__).parent)], 2) == 0
    )
    told = {(tmp_path / f"told-{rank}").read_text(encoding="utf-8") for rank in (0, 1)}
    (sentence,) = told
    assert "rank 1 cannot write the checkpoint of step 4" in sentence
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {step_name(2)}
    found = find_resumable(tmp_path / "checkpoints")
    assert found is not None
    assert set(found.manifest.files) == {"rank-00000.pt", "rank-00001.pt"}
