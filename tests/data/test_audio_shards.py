"""Shards in training: order, shares, resuming, damage; one test for each trap of the webdataset library."""

import json
import logging
import multiprocessing
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import soundfile
import torch

from data.audio_shards import LeftOut, expand, read_shard, split_name
from data.augmentation import AugmentationConfig
from data.captions import Captioner
from data.datamodule import AudioDataModule, DataConfig
from data.shard_loading import ShardSource, ShardStream
from data.shard_order import Reader
from data.tar_shards import ShardWriter
from models.errors import UserError

RATE = 44_100


def _flac(number: int, seconds: float = 0.05) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.flac")
        soundfile.write(path, np.full((round(seconds * RATE), 2), (number + 1) / 1_000), RATE)
        return path.read_bytes()


def write_shards(folder: Path, num_shards: int, per_shard: int, first: int = 0) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(num_shards):
        with ShardWriter(folder / f"{shard:05d}.tar") as writer:
            for index in range(per_shard):
                number = first + shard * per_shard + index
                writer.write(
                    f"{number:06d}", {"flac": _flac(number), "json": json.dumps({"prompt": f"{number}"}).encode()}
                )
    return str(folder)


def _source(shards, **options) -> ShardSource:
    defaults = {
        "weights": (), "seed": 0, "crop_samples": 1_024, "num_validation": 0, "validation_share": 0.0,
        "max_unreadable_share": 0.05,
    }  # fmt: skip
    return ShardSource(shards, **(defaults | options))


def _prompts(source: ShardSource, num: int, **options) -> list[int]:
    stream = ShardStream(source, batch_size=1, **options)
    return [int(batch["prompt"][0]) for batch in islice(stream, num)]


def test_every_pass_has_every_sample_once_and_passes_differ(tmp_path: Path) -> None:
    """Trap: `shardshuffle` gives the same order every epoch."""
    source = _source(write_shards(tmp_path, 4, 5))
    first, second = (_prompts(source, 40)[k : k + 20] for k in (0, 20))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert [number // 5 for number in first] != [number // 5 for number in second]


def test_one_seed_makes_the_order(tmp_path: Path) -> None:
    """Trap: `resampled=True` ignores its seed."""
    shards = write_shards(tmp_path, 4, 5)
    assert _prompts(_source(shards), 30) == _prompts(_source(shards), 30)
    assert _prompts(_source(shards), 20) != _prompts(_source(shards, seed=1), 20)


@pytest.mark.parametrize("num_shards", [8, 3, 1])
def test_ranks_and_workers_have_their_own_samples(
    tmp_path: Path, num_shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traps: ranks come from RANK, and workers that are spawned read the same shards."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    source = _source(write_shards(tmp_path, num_shards, 24 // num_shards))
    seen = [_prompts(source, 12, num_workers=2, rank=rank, world_size=2) for rank in range(2)]
    assert sorted(seen[0] + seen[1]) == list(range(24))


def test_spawned_workers_have_their_own_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda *_, **__: "spawn")
    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda *_: context)
    shards = write_shards(tmp_path, 2, 4)
    assert sorted(_prompts(_source(shards), 8, num_workers=2)) == list(range(8))


def test_fewer_shards_than_readers_are_said_and_no_rank_runs_dry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Trap: `with_epoch` counts per worker, and ranks with fewer shards end earlier. Here no stream ends."""
    source = _source(write_shards(tmp_path, 2, 3))
    seen = [_prompts(source, 9, rank=rank, world_size=5) for rank in range(5)]
    assert [len(one) for one in seen] == [9] * 5
    assert all(count >= 5 for count in Counter(number for one in seen for number in one).values())
    assert "2 shards for 5 readers" in caplog.text


def test_fewer_samples_than_readers(tmp_path: Path) -> None:
    source = _source(write_shards(tmp_path, 1, 2))
    assert {_prompts(source, 1, rank=rank, world_size=4)[0] for rank in range(4)} <= {0, 1}


@pytest.mark.parametrize(("num_workers", "batch_size"), [(0, 3), (2, 3), (3, 2)])
@pytest.mark.parametrize("at", [1, 4, 11])
def test_resuming_in_mid_pass_is_exact(tmp_path: Path, num_workers: int, batch_size: int, at: int) -> None:
    folders = [write_shards(tmp_path / "a", 5, 4), write_shards(tmp_path / "b", 2, 7, first=100)]
    source = _source(folders, weights=(1, 2))
    options: dict[str, Any] = {"num_workers": num_workers, "rank": 1, "world_size": 2}
    whole = ShardStream(source, batch_size, **options)
    batches = [(batch["prompt"], batch["audio"]) for batch in islice(whole, 16)]
    state = json.loads(json.dumps(whole.state(at)))
    resumed = ShardStream(source, batch_size, **options, start_batch=lambda: at, saved=[state, state])
    for (prompts, audio), batch in zip(batches[at:], resumed, strict=False):
        assert batch["prompt"] == prompts
        assert torch.equal(batch["audio"], audio)


def test_other_numbers_of_readers_go_on_behind_the_shards_that_were_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = _source(write_shards(tmp_path, 8, 2))
    before = ShardStream(source, 2, num_workers=2)
    seen = [int(prompt) for batch in islice(before, 2) for prompt in batch["prompt"]]
    resumed = ShardStream(source, 2, start_batch=lambda: 2, saved=[before.state(2)])
    rest = [int(prompt) for batch in islice(resumed, 6) for prompt in batch["prompt"]]
    assert sorted(seen + rest) == list(range(16))
    assert "the checkpoint is of 1 processes with 2 workers" in caplog.text


def test_weights_of_sources(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", 3, 10)
    write_shards(tmp_path / "b", 1, 5, first=500)
    prompts = _prompts(_source([str(tmp_path / "a"), str(tmp_path / "b")], weights=(3.0, 1.0)), 400)
    assert sum(number >= 500 for number in prompts) == pytest.approx(100, abs=30)
    with pytest.raises(UserError, match=r"data\.shard_weights must have one value for each of 1 sources"):
        _source(str(tmp_path / "a"), weights=(1.0, 2.0))


def test_patterns_folders_and_commands(tmp_path: Path) -> None:
    write_shards(tmp_path, 3, 2)
    paths = [f"{tmp_path}/0000{number}.tar" for number in range(3)]
    assert expand(f"{tmp_path}/{{00000..00002}}.tar") == expand(str(tmp_path)) == paths
    assert _prompts(_source(f"pipe:cat {tmp_path}/{{00000..00002}}.tar"), 6)
    assert sorted(_prompts(_source("::".join(f"file:{path}" for path in paths)), 6)) == list(range(6))
    with pytest.raises(FileNotFoundError, match=r"no such shard: .*00003\.tar"):
        expand(f"{tmp_path}/{{00002..00003}}.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no shards in"):
        expand(str(tmp_path / "empty"))


def test_names_with_dots_stay_whole(tmp_path: Path) -> None:
    """Trap: keys split at the first dot, so that `a.1.flac` and `a.2.flac` become one sample."""
    assert split_name("x/a.b.flac") == ("x/a.b", "flac")
    assert split_name("a.b.FLAC.json") == ("a.b", "json")
    assert split_name("a.b.caption.txt") == ("a.b", "caption.txt")
    path = tmp_path / "a.tar"
    with ShardWriter(path) as writer:
        for number in range(3):
            writer.write("song", {f"{number}.flac": _flac(number), f"{number}.txt": f"take {number}\n".encode()})
    samples = list(read_shard(str(path), LeftOut(0.0)))
    assert [(sample.key, sample.metadata) for sample in samples] == [
        (f"song.{number}", {"prompts": [f"take {number}"]}) for number in range(3)
    ]


def test_broken_samples_are_named_counted_and_cost_no_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap: `warn_and_continue` sleeps half a second for every error."""
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"slept {seconds} s"))
    with ShardWriter(tmp_path / "a.tar") as writer:
        for number in range(30):
            content = b"no audio" * 50 if number == 7 else _flac(number)
            writer.write(f"{number:03d}", {"flac": content, "json": json.dumps({"prompt": f"{number}"}).encode()})
        writer.write("text", {"json": b"{}"})
        writer.write("wrong", {"flac": _flac(0), "json": b"["})
    source = _source(str(tmp_path / "a.tar"))
    assert sorted(_prompts(source, 30)[:29]) == [number for number in range(30) if number != 7]
    assert sorted(name.rpartition(": ")[2] for name in source.left_out.names) == ["007", "text", "wrong"]
    for expected in ("007: cannot read", "text: it holds no audio, only json", "wrong: ", "is not JSON"):
        assert expected in caplog.text


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_broken_samples_stop_the_run(tmp_path: Path, num_workers: int) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer:
        for number in range(40):
            writer.write(f"{number:03d}", {"flac": b"no audio" if number % 2 else _flac(number)})
    source = _source(str(tmp_path / "a.tar"))
    with pytest.raises(UserError, match=r"samples cannot be read, more than data\.max_unreadable_share 0\.05 allows"):
        list(islice(ShardStream(source, 1, num_workers), 300))


def test_shards_without_anything_to_train_on_stop_the_run(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.write("a", {"json": b"{}"})
    with pytest.raises(UserError, match="the shards give no samples to train on"):
        _prompts(_source(str(tmp_path / "a.tar")), 1)


def test_a_local_shard_that_breaks_off_is_refused_at_the_start(tmp_path: Path) -> None:
    path = write_shards(tmp_path, 1, 3) + "/00000.tar"
    content = Path(path).read_bytes()
    for end in (len(content) // 2, 512 * 3, 100, 0):
        Path(path).write_bytes(content[:end])
        with pytest.raises(UserError, match=r"shard .*00000\.tar breaks off"):
            expand(path)


@pytest.mark.parametrize("command", ["head -c 9000 {}", "head -c 10240 {}", "cat {}; exit 3", "no_such_command {}"])
def test_a_command_that_fails_loses_no_more_than_the_rest_of_its_shard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    write_shards(tmp_path, 2, 10)
    good, bad = (f"{tmp_path}/0000{number}.tar" for number in range(2))
    source = _source(f"{good}::pipe:({command.format(bad)}) 2>/dev/null", max_unreadable_share=0.5)
    assert set(_prompts(source, 40)) >= set(range(10))
    assert "left out the rest of pipe:" in caplog.text


def test_decoding_uses_no_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap: `torch_audio` decodes through temporary files."""
    source = _source(write_shards(tmp_path, 1, 2))
    for name in ("NamedTemporaryFile", "TemporaryDirectory", "mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, lambda *_, **__: pytest.fail("a temporary file"))
    (batch,) = islice(ShardStream(source, 2), 1)
    assert batch["audio"][0].max() == pytest.approx((int(batch["prompt"][0]) + 1) / 1_000, abs=1e-4)
    assert batch["seconds_total"].tolist() == pytest.approx([0.05] * 2)


@pytest.mark.parametrize(("num_shards", "share"), [(10, 0.2), (2, 0.2)])
def test_validation_is_held_out_and_fixed(tmp_path: Path, num_shards: int, share: float) -> None:
    shards = write_shards(tmp_path, num_shards, 40 // num_shards)
    first, second = (_source(shards, num_validation=6, validation_share=share, seed=seed) for seed in (0, 1))
    held_out = [first.draw_validation(index)["prompt"] for index in range(first.num_validation)]
    assert held_out == [second.draw_validation(index)["prompt"] for index in range(second.num_validation)]
    assert 1 <= len(set(held_out)) <= 6
    assert not {int(prompt) for prompt in held_out} & set(_prompts(first, 60))


def test_too_few_samples_to_hold_some_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = _source(write_shards(tmp_path, 1, 1), num_validation=4, validation_share=1e-9)
    assert source.num_validation == 1
    assert "1 validate that are trained on" in caplog.text


def _rule(metadata: dict):
    number = int(metadata["prompt"])
    if number == 3:
        return None
    return f"clip {number}" if number % 2 else [f"first {number}", f"second {number}"]


def _failing_rule(metadata: dict) -> str:
    return metadata["title"]


def test_a_rule_for_captions(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, 1, 6)
    source = _source(shards, captioner=Captioner(f"{__name__}:_rule"), num_validation=2, validation_share=1e-9)
    prompts = {batch["prompt"][0] for batch in islice(ShardStream(source, 1), 60)}
    assert prompts == {"clip 1", "clip 5", *(f"{one} {n}" for one in ("first", "second") for n in (0, 2, 4))}
    failing = _source(shards, captioner=Captioner(f"{__name__}:_failing_rule"))
    with pytest.raises(UserError, match=r"_failing_rule fails for 00000\d: KeyError: 'title'"):
        next(iter(ShardStream(failing, 1)))


def test_augmentation_changes_training_and_not_validation(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, 1, 4)
    options = {"num_validation": 2, "validation_share": 1e-9}
    plain = _source(shards, **options)
    changed = _source(shards, augmentation=AugmentationConfig(invert=1.0), **options)
    for one, other in zip(islice(ShardStream(plain, 2), 3), ShardStream(changed, 2), strict=False):
        assert torch.equal(one["audio"], -other["audio"])
        assert one["prompt"] == other["prompt"]
    np.testing.assert_array_equal(plain.draw_validation(0)["audio"], changed.draw_validation(0)["audio"])


def test_readers_share_every_pass() -> None:
    dealt = [Reader(0, number, 3).shard_of(unit, 7) for unit in range(7) for number in range(3)]
    for passed in range(3):
        assert sorted(shard for one, shard in dealt if one == passed) == list(range(7))


class _Recorder(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[str]] = []

    def training_step(self, batch):
        self.seen.append(batch["prompt"])
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(shards: str, steps: int, folder: Path, num_workers: int, checkpoint: str | None = None):
    data = AudioDataModule(
        DataConfig(shards=shards, crop_samples=1_024, batch_size=2, num_workers=num_workers, num_validation=0)
    )
    module = _Recorder()
    trainer = lightning.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return module, trainer


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_resumed_in_mid_pass_equals_an_uninterrupted_one(tmp_path: Path, num_workers: int) -> None:
    write_shards(tmp_path / "shards", 4, 5)
    shards = str(tmp_path / "shards")
    whole, _ = _fit(shards, 14, tmp_path, num_workers)
    first, trainer = _fit(shards, 5, tmp_path, num_workers)
    trainer.save_checkpoint(tmp_path / "mid.ckpt")
    second, _ = _fit(shards, 14, tmp_path, num_workers, str(tmp_path / "mid.ckpt"))
    assert first.seen + second.seen == whole.seen


def test_options_that_exclude_each_other(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(UserError, match="got folder and shards"):
        DataConfig(folder="a", shards="b")
    with pytest.raises(UserError, match=r"data\.shards is empty"):
        DataConfig(shard_weights=(1.0,))
