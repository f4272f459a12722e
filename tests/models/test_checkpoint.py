"""Checkpoints for use: round trip, shards, damage that a user can cause, and writers that are killed."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import checkpoint
from models.checkpoint import (
    CONFIG_NAME,
    Checkpoint,
    has_part,
    load_config,
    load_part,
    load_weights,
    part_of,
    read_checkpoint,
    replace_tensors,
    save_config,
    save_part,
    save_parts,
)
from models.errors import UserError
from models.files import PARTIAL


def constant(value: float, size: int = 4) -> nn.Linear:
    """A layer whose weights all have one value."""
    layer = nn.Linear(size, size)
    nn.init.constant_(layer.weight, value)
    nn.init.constant_(layer.bias, value)
    return layer


def save_both(folder: Path, value: float, size: int = 4) -> None:
    """One export of two parts that belong together."""
    save_parts(folder, [part_of(name, {"value": value}, constant(value, size)) for name in ("unet", "conditioner")])


def values_of(folder: Path) -> set[float]:
    """All values that the weights and configurations of both parts have, read from one state of the folder."""

    def read(saved: Checkpoint) -> set[float]:
        parts = [saved.part(name) for name in ("unet", "conditioner")]
        weights = {float(each) for part in parts for tensor in part.tensors.values() for each in tensor.unique()}
        return weights | {part.config["value"] for part in parts}

    return read_checkpoint(folder, read)


def test_round_trip_keeps_weights_and_other_parts(tmp_path: Path):
    first, second = nn.Linear(3, 2), nn.BatchNorm1d(4)
    save_part(tmp_path, "first", {"size": 3}, first, dtype=torch.float32)
    save_part(tmp_path, "second", {}, second)
    config, state = load_part(tmp_path, "first")
    assert config == {"size": 3}
    assert all(torch.equal(state[key], value) for key, value in first.state_dict().items())
    assert load_part(tmp_path, "second")[1]["num_batches_tracked"].dtype == torch.int64
    assert has_part(tmp_path, "second")
    assert not has_part(tmp_path, "third")
    assert not has_part(tmp_path, checkpoint.FILES)


def test_half_precision_on_disk_is_float_in_memory(tmp_path: Path):
    module = nn.Linear(3, 2)
    save_part(tmp_path, "net", {}, module)
    weight = load_part(tmp_path, "net")[1]["weight"]
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, module.weight, rtol=1e-3, atol=1e-3)


def test_large_parts_are_split_and_old_files_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 140)
    module = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    save_part(tmp_path, "net", {}, module, dtype=torch.float32)
    assert len(list(tmp_path.glob("net-*-of-00002-*.safetensors"))) == 2
    load_weights(module, load_part(tmp_path, "net")[1], tmp_path)
    next(iter(tmp_path.glob("net-*"))).unlink()
    with pytest.raises(UserError, match="is missing, a file of part 'net': download or export the model again"):
        load_part(tmp_path, "net")
    save_part(tmp_path, "network", {}, nn.Linear(1, 1))
    save_part(tmp_path, "net", {}, nn.Linear(1, 1))
    assert len(list(tmp_path.glob("net-*"))) == 1
    assert load_part(tmp_path, "network")[1].keys() == {"weight", "bias"}  # another part, whose name begins alike


def test_weights_fill_a_module_on_the_meta_device():
    source = nn.Linear(3, 2)
    with torch.device("meta"):
        target = nn.Linear(3, 2)
    load_weights(target, source.state_dict(), "here")
    assert torch.equal(target(torch.ones(3)), source(torch.ones(3)))


def test_differences_are_listed():
    state = {"weight": torch.zeros(2, 2), "extra": torch.zeros(1)}
    with pytest.raises(UserError, match=r"weights in here do not fit .*\(3 differences\): missing bias; unknown extra"):
        load_weights(nn.Linear(3, 2), state, "here")


def test_a_folder_that_is_no_model_names_its_neighbours(tmp_path: Path):
    (tmp_path / "demo").mkdir()
    save_config(tmp_path / "demo", "vae", {"a": 1})
    with pytest.raises(FileNotFoundError, match=r"no model in .*: expected a folder with config.json; .* has demo"):
        load_part(tmp_path / "dmeo", "vae")
    with pytest.raises(UserError, match="has no part 'unet', it has"):
        load_config(tmp_path / "demo", "unet")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])  # float16 ends at 65,504
def test_weights_that_are_not_finite_are_never_written(tmp_path: Path, value: float):
    save_both(tmp_path, 1.0)
    with pytest.raises(UserError, match=r"weights in part 'unet' for .* are not finite \(weight, torch.float16\)"):
        save_both(tmp_path, value)
    assert values_of(tmp_path) == {1.0}
    assert len(list(tmp_path.iterdir())) == 3


def test_weights_that_are_not_finite_are_not_accepted(tmp_path: Path):
    state = constant(float("nan")).state_dict()
    (tmp_path / CONFIG_NAME).write_text('{"net": {}}')
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="not finite"):
        load_weights(nn.Linear(4, 4), load_part(tmp_path, "net")[1], tmp_path)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(content)


def take_the_other_export(path: Path) -> None:
    other = path.parents[1] / "other"
    save_both(other, 3.0)
    path.write_bytes(next(iter(other.glob("unet*"))).read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "is damaged or of another export"),
        (take_the_other_export, "is damaged or of another export"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, config.json says"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "run git lfs pull"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str):
    save_both(tmp_path / "model", 2.0)
    path = next(iter((tmp_path / "model").glob("unet*")))
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        values_of(tmp_path / "model")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "files", [[], {"unet": 3}, {"unet": [3]}, {"unet": [{}]}, {"unet": [{"name": "../x", "bytes": 1, "sha256": ""}]}]
)
def test_a_damaged_list_of_files_is_one_line(tmp_path: Path, files: object):
    save_both(tmp_path, 2.0)
    configs = json.loads((tmp_path / CONFIG_NAME).read_text())
    (tmp_path / CONFIG_NAME).write_text(json.dumps(configs | {"files": files}))
    with pytest.raises(UserError, match=r"config\.json: files"):
        values_of(tmp_path)


def test_folders_without_a_list_are_checked_as_far_as_can_be(tmp_path: Path):
    (tmp_path / CONFIG_NAME).write_text('{"net": {}}')
    first, second = ({name: torch.full((3,), 2.0)} for name in ("a", "b"))
    save_file(first, tmp_path / "net-00001-of-00002.safetensors")
    with pytest.raises(UserError, match="holds 1 of 00002 weight files of part 'net'"):
        load_part(tmp_path, "net")
    save_file(second, tmp_path / "net-00002-of-00002.safetensors")
    assert load_part(tmp_path, "net")[1].keys() == {"a", "b"}
    save_file(second, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="weight files of two exports of part 'net'"):
        load_part(tmp_path, "net")
    (tmp_path / "net.safetensors").write_bytes(b"not weights")
    for stray in tmp_path.glob("net-*"):
        stray.unlink()
    with pytest.raises(UserError, match=r"net.safetensors is not a valid safetensors file"):
        load_part(tmp_path, "net")
    save_part(tmp_path, "net", {}, constant(1.0))  # from here on there is a list
    assert [path.name for path in tmp_path.glob("net*")] == [Checkpoint(tmp_path).files("net")[0].name]
    assert load_part(tmp_path, "net")[1].keys() == {"weight", "bias"}


def test_some_tensors_are_replaced_and_number_formats_stay(tmp_path: Path):
    save_part(tmp_path, "net", {"a": 1}, constant(2.0))
    replace_tensors(tmp_path, "net", {"bias": torch.full((4,), 5.0)})
    part = Checkpoint(tmp_path).part("net")
    assert part.config == {"a": 1}
    assert {tensor.dtype for tensor in part.tensors.values()} == {torch.float16}
    assert (float(part.tensors["weight"][0, 0]), float(part.tensors["bias"][0])) == (2.0, 5.0)


def test_an_export_while_a_model_is_read_gives_one_of_the_two(tmp_path: Path):
    save_both(tmp_path, 1.0)
    reads = []

    def read(saved: Checkpoint) -> float:
        unet = saved.part("unet")
        reads.append(unet)
        if len(reads) == 1:
            save_both(tmp_path, 2.0)  # the conditioner of the first export is gone now
        return float(saved.part("conditioner").tensors["bias"][0]) + float(unet.tensors["bias"][0])

    assert read_checkpoint(tmp_path, read) == 4.0
    assert len(reads) == 2


def export_for_ever(folder: Path, first: int) -> None:
    for value in range(first, 2000):
        save_both(folder, float(value), size=200)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_writer_that_is_killed_leaves_the_old_model_or_the_new_one(tmp_path: Path, kills: int):
    save_both(tmp_path, 0.0, size=200)
    rng, last = random.Random(0), 0.0
    context = multiprocessing.get_context("fork")
    for _ in range(kills):
        process = context.Process(target=export_for_ever, args=(tmp_path, int(last) + 1))
        process.start()
        before = (tmp_path / CONFIG_NAME).stat().st_mtime_ns
        while (tmp_path / CONFIG_NAME).stat().st_mtime_ns == before and process.is_alive():
            os.sched_yield()
        time.sleep(rng.uniform(0, 0.02))  # a random moment of a later export
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        (value,) = values_of(tmp_path)
        assert value > last
        last = value
    save_both(tmp_path, 0.0)
    assert len(list(tmp_path.iterdir())) == 3  # nothing of the dead processes is left
    assert not list(tmp_path.glob(f"*{PARTIAL}*"))
