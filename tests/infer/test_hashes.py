"""Hashes change with what they stand for, and with nothing else."""

from pathlib import Path

import pytest

from infer import hashes
from infer.hashes import file_hash, folder_hashes, source_hash


def test_weights_of_a_folder(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "unet.safetensors").write_bytes(b"abc")
    (tmp_path / "notes.txt").write_text("no weights")
    found = folder_hashes(tmp_path)
    assert set(found) == {"config.json", "unet.safetensors"}
    assert found["unet.safetensors"] == file_hash(tmp_path / "unet.safetensors") == "ba7816bf8f01cfea"
    with pytest.raises(FileNotFoundError, match="no model"):
        folder_hashes(tmp_path / "none")


def test_source_changes_the_hash_and_what_is_left_out_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hashes, "ROOT", tmp_path)
    for name in ("a/one.py", "a/tests/two.py", "b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def now() -> str:
        source_hash.cache_clear()
        return source_hash("a", "b.py", without=("a/tests",))

    first = now()
    (tmp_path / "a/tests/two.py").write_text("changed")
    (tmp_path / "a/notes.txt").write_text("no source")
    assert now() == first
    seen = {first}
    (tmp_path / "a/one.py").write_text("changed")
    seen.add(now())
    (tmp_path / "a/three.py").write_text("")
    seen.add(now())
    (tmp_path / "b.py").write_text("changed")
    seen.add(now())
    assert len(seen) == 4
    with pytest.raises(FileNotFoundError, match="no source in c"):
        source_hash("c")
    source_hash.cache_clear()
