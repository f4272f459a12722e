"""Training from audio shards over two processes: a damaged sample, and a session that is resumed in mid-pass."""

import json
from pathlib import Path

import numpy as np
import soundfile
import torch

from data.tar_shards import ShardWriter
from tests.train.conftest import weights
from tests.train.test_distributed import train_on_two


def write_shards(folder: Path) -> str:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for shard in range(3):
        with ShardWriter(folder / f"{shard}.tar") as writer:
            for number in range(5):
                path = folder / "a.flac"
                soundfile.write(path, generator.uniform(-0.3, 0.3, (30_000, 2)), 44_100)
                content = b"no audio" if (shard, number) == (1, 2) else path.read_bytes()
                writer.write(f"{shard}-{number}", {"flac": content, "json": json.dumps({"prompt": "noise"}).encode()})
                path.unlink()
    return str(folder)


def test_two_processes_resumed_in_mid_pass_equal_an_uninterrupted_training(tmp_path: Path):
    options = ["--data.shards", write_shards(tmp_path / "shards"), "--data.batch_size", "1", "--data.num_workers", "1"]
    options += ["--data.validation_share", "0.2", "--data.max_unreadable_share", "0.5"]
    whole = train_on_two("vae", tmp_path / "whole", *options, "--trainer.max_steps", "6")
    train_on_two("vae", tmp_path / "parts", *options, "--trainer.max_steps", "3")
    parts = train_on_two("vae", tmp_path / "parts", *options, "--trainer.max_steps", "6", "--resume", "last")
    state = torch.load(parts / "last.ckpt", weights_only=True)["AudioDataModule"]
    assert [len(reader["lanes"]) for reader in state["readers"]] == [1, 1]
    assert all(reader["lanes"][0][0] >= 6 for reader in state["readers"])  # samples drawn, the damaged one included
    one, other = weights(whole), weights(parts)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
