"""Names and checks of what commands write: nothing is overwritten unasked, one writer per file, room on the disk."""

import multiprocessing
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from infer.outputs import check_output, check_seconds, check_seed, claimed, file_name


def test_bad_requests(tmp_path: Path):
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="above 0"):
            check_seconds(seconds)
    with pytest.raises(ValueError, match="at most 1e"):
        check_seconds(1e9)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_output(tmp_path / "no" / "a.wav")
    with pytest.raises(ValueError, match=r"\.flac"):
        check_output(tmp_path / "a.mp3")
    with pytest.raises(ValueError, match="is a folder"):
        check_output(tmp_path)


def test_seeds_that_a_generator_takes():
    check_seed(0)
    check_seed(2**63 - 2)
    for seed in (-1, 2**63, 10**20):
        with pytest.raises(ValueError, match=f"seed must lie between 0 and 9223372036854775806, got {seed}"):
            check_seed(seed)
    with pytest.raises(ValueError, match="seed must"):
        check_seed(2**63 - 2, num_samples=3)


def test_an_existing_file_is_kept_unless_it_may_be_replaced(tmp_path: Path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"a\.wav exists already: choose another name, or replace it with --overwrite"):
        check_output(path)
    with pytest.raises(ValueError, match="exists already"), claimed(path, overwrite=False):
        pass
    check_output(path, overwrite=True)
    with claimed(path, overwrite=True):
        pass
    assert path.read_bytes() == b"mine"


def try_to_claim(path: Path, answers: multiprocessing.Queue) -> None:
    try:
        with claimed(path, overwrite=True):
            answers.put("claimed")
    except ValueError as error:
        answers.put(str(error))


def test_two_processes_cannot_write_one_file(tmp_path: Path):
    path = tmp_path / "a.wav"
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with claimed(path, overwrite=True):
        other = context.Process(target=try_to_claim, args=(path, answers))
        other.start()
        assert answers.get(timeout=60) == f"{path} is being written by another process"
        other.join()
    with claimed(path, overwrite=True):
        assert path.exists()


def test_a_full_disk_is_found_out_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 5 * 2**20))
    check_output(tmp_path / "a.wav", num_bytes=4 * 2**20)
    with pytest.raises(OSError, match=r"no space left: it needs 6\.0 MiB of 5\.0 MiB") as error:
        check_output(tmp_path / "a.wav", num_bytes=6 * 2**20)
    assert error.value.filename == str(tmp_path / "a.wav")


def test_file_names():
    assert file_name("Heavy rain, with distant thunder!", 3) == "heavy-rain-with-distant-thunder-3.wav"
    assert file_name("???", 0) == "sound-0.wav"
    assert file_name("réveil/../x", 0, ".flac") == "réveil-x-0.flac"
    assert len(file_name("word " * 100, 0)) < 80
    assert len(file_name("雨" * 100, 2**62).encode()) <= 255
