"""Checkpoints for use: round trip, shards, errors a user can cause."""

import json

import pytest
import torch
from torch import nn

from models import checkpoint
from models.checkpoint import has_part, load_config, load_part, load_weights, save_config, save_part


def test_round_trip_keeps_weights_and_other_parts(tmp_path):
    first, second = nn.Linear(3, 2), nn.BatchNorm1d(4)
    save_part(tmp_path, "first", {"size": 3}, first, dtype=torch.float32)
    save_part(tmp_path, "second", {}, second)
    config, state = load_part(tmp_path, "first")
    assert config == {"size": 3}
    assert all(torch.equal(state[key], value) for key, value in first.state_dict().items())
    assert load_part(tmp_path, "second")[1]["num_batches_tracked"].dtype == torch.int64
    assert has_part(tmp_path, "second")
    assert not has_part(tmp_path, "third")


def test_half_precision_on_disk_is_float_in_memory(tmp_path):
    module = nn.Linear(3, 2)
    save_part(tmp_path, "net", {}, module)
    weight = load_part(tmp_path, "net")[1]["weight"]
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, module.weight, rtol=1e-3, atol=1e-3)


def test_large_parts_are_split_and_old_shards_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 140)
    module = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    save_part(tmp_path, "net", {}, module, dtype=torch.float32)
    assert len(list(tmp_path.glob("net-*-of-00002.safetensors"))) == 2
    load_weights(module, load_part(tmp_path, "net")[1], tmp_path)
    next(iter(tmp_path.glob("net-*"))).unlink()
    with pytest.raises(FileNotFoundError, match="holds 1 of 2 weight files of part 'net'"):
        load_part(tmp_path, "net")
    save_part(tmp_path, "net", {}, nn.Linear(1, 1))
    assert [p.name for p in tmp_path.glob("net*")] == ["net.safetensors"]


def test_weights_fill_a_module_on_the_meta_device():
    source = nn.Linear(3, 2)
    with torch.device("meta"):
        target = nn.Linear(3, 2)
    load_weights(target, source.state_dict(), "here")
    assert torch.equal(target(torch.ones(3)), source(torch.ones(3)))


def test_differences_are_listed():
    state = {"weight": torch.zeros(2, 2), "extra": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"weights in here do not fit .*\(3 differences\): missing bias; unknown extra"
    ):
        load_weights(nn.Linear(3, 2), state, "here")


def test_a_folder_that_is_no_model_names_its_neighbours(tmp_path):
    (tmp_path / "demo").mkdir()
    save_config(tmp_path / "demo", "vae", {"a": 1})
    with pytest.raises(FileNotFoundError, match=r"no model in .*: expected a folder with config.json; .* has demo"):
        load_part(tmp_path / "dmeo", "vae")
    with pytest.raises(ValueError, match="has no part 'unet', it has"):
        load_config(tmp_path / "demo", "unet")


def test_damaged_files_are_named(tmp_path):
    save_part(tmp_path, "net", {}, nn.Linear(1, 1))
    (tmp_path / "net.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"net.safetensors is not a valid safetensors file"):
        load_part(tmp_path, "net")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_part(tmp_path, "net")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    save_config(tmp_path, "net", {"a": 1})

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        save_config(tmp_path, "net", {"a": 2})
    assert json.loads((tmp_path / "config.json").read_text()) == {"net": {"a": 1}}
