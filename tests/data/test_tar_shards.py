"""Shards: random access equals what was written, whole or not at all, damage is named."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from data.tar_shards import Shard, ShardWriter


def _write(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {f"clip{n}": rng.standard_normal((5 + n, 3)).astype(np.float16) for n in range(4)}
    with ShardWriter(path) as writer:
        for key, array in arrays.items():
            writer.write(key, {"about": {"name": key, "text": "Ü"}, "mean": array, "wide": array.T.astype(np.float64)})
    return arrays


def test_random_access_equals_what_was_written(tmp_path: Path) -> None:
    arrays = _write(tmp_path / "a.tar")
    shard = Shard(tmp_path / "a.tar")
    assert shard.keys == list(arrays)
    for reader in (shard, pickle.loads(pickle.dumps(shard))):
        for key in reversed(arrays):
            np.testing.assert_array_equal(reader.array(key, "mean"), arrays[key])
            np.testing.assert_array_equal(reader.array(key, "wide"), arrays[key].T.astype(np.float64))
            assert reader.json(key, "about") == {"name": key, "text": "Ü"}


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path / "a.tar") as writer:
            writer.write("clip", {"mean": np.zeros(3)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    _write(path)
    with pytest.raises(ValueError, match=r"a\.tar has no member clip0\.std\.npy"):
        Shard(path).array("clip0", "std")
    content = path.read_bytes()
    path.write_bytes(content[:1_700])
    with pytest.raises(ValueError, match=r"a\.tar"):
        Shard(path)
    path.write_bytes(b"no tar" * 1_000)
    with pytest.raises(ValueError, match=r"a\.tar is no shard"):
        Shard(path)
    with pytest.raises(ValueError, match="must not hold a dot"), ShardWriter(path) as writer:
        writer.write("a.b", {})
