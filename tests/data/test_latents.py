"""Latents on disk: round trip of a tiny VAE, crops with true timing, silence as filling, finished shards kept."""

import dataclasses
import io
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from webdataset.compat import WebDataset

from data import latent_folder
from data import latents as command
from data.clips import LatentDataConfig
from data.datamodule import DataConfig, LatentDataModule
from data.encoding import encode_clip
from data.folder import list_entries, split_entries
from data.latent_folder import LatentIndex
from data.latent_source import LatentSource
from data.tar_shards import ShardWriter
from data.tuning import TuningDataModule
from models.errors import UserError
from models.vae import VAE, VAEConfig
from models.vae_waveform import WaveformConfig

_HOP = 1_024
_LENGTHS = {"a": 40 * _HOP, "b": 100 * _HOP + 7, "c": 300, "d": 64 * _HOP}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    vae = VAE(VAEConfig(latent_channels=4, waveform=WaveformConfig(encoder_width=2, decoder_width=32)))
    vae.set_latent_statistics(torch.randn(4) * 0.1, torch.rand(4) + 0.5)
    folder = tmp_path_factory.mktemp("model")
    vae.save(folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for seed, (name, length) in enumerate(_LENGTHS.items()):
        noise = np.random.default_rng(seed).uniform(-0.3, 0.3, (length, 2)).astype(np.float32)
        soundfile.write(folder / f"{name}.wav", noise, 44_100, subtype="FLOAT")
        (folder / f"{name}.json").write_text(json.dumps({"prompt": f"noise {name}", "seed": seed}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def encoded(model: Path, songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoded") / "latents"
    data = LatentDataConfig(folder=str(songs), num_workers=0, validation_share=0.25)
    command.main(model, out, data, clips_per_shard=2, device="cpu")
    return out


def _posterior(model: Path, songs: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    audio, _ = soundfile.read(songs / f"{name}.wav", dtype="float32")
    with torch.no_grad():
        posterior = VAE.load(model).posterior(torch.from_numpy(audio.T.copy())[None])
    return posterior.mean[0], posterior.std[0]


def _files(source: LatentSource) -> dict[str, tuple]:
    found = {}
    for shard, key in [*source.training, *source.validation]:
        about = shard.json(key, "about")
        found[Path(about["name"]).stem] = (about, shard.array(key, "mean"), shard.array(key, "std"))
    return found


def test_shards_hold_the_posterior_of_the_whole_file(model: Path, songs: Path, encoded: Path) -> None:
    found = _files(LatentSource(encoded, 0, 16, 8))
    assert sorted(found) == sorted(_LENGTHS)
    for name, (about, mean, std) in found.items():
        expected_mean, expected_std = _posterior(model, songs, name)
        assert mean.dtype == std.dtype == np.float16
        assert mean.shape == (-(-_LENGTHS[name] // _HOP), 4)
        np.testing.assert_allclose(mean.T, expected_mean, atol=2e-3)
        np.testing.assert_allclose(std.T, expected_std, rtol=2e-3)
        assert about["seconds_total"] == pytest.approx(_LENGTHS[name] / 44_100)
        assert about["metadata"]["prompt"] == f"noise {name}"


def test_webdataset_reads_the_shards(encoded: Path) -> None:
    urls = [str(path) for path in sorted(encoded.glob("train-*.tar"))]
    samples = list(WebDataset(urls, shardshuffle=False))
    assert len(samples) == 3
    assert {"mean.npy", "std.npy", "about.json"} <= set(samples[0])
    assert np.load(io.BytesIO(samples[0]["mean.npy"])).dtype == np.float16


def test_crops_have_true_timing_and_fresh_posterior_noise(model: Path, songs: Path, encoded: Path) -> None:
    source = LatentSource(encoded, seed=1, crop_frames=16, num_validation=8)
    posteriors = {name: _posterior(model, songs, name) for name in _LENGTHS}
    starts, errors = set(), []
    for index in range(60):
        (item,) = source.draw(index)
        name = item["prompt"].removeprefix("noise ")
        assert item["latents"].shape == (4, 16)
        assert item["seconds_total"] == pytest.approx(_LENGTHS[name] / 44_100)
        start = round(item["seconds_start"] * 44_100 / _HOP)
        starts.add((name, start))
        mean, std = posteriors[name]
        real = item["frame_mask"]
        count = int(real.sum())
        assert count == min(16, mean.shape[1])
        noise = (item["latents"][:, :count] - mean[:, start : start + count].numpy()) / std[
            :, start : start + count
        ].numpy()
        errors.append(torch.from_numpy(noise).flatten())
    assert len(starts) > 20
    noise = torch.cat(errors)
    assert abs(float(noise.mean())) < 0.05
    assert float(noise.std()) == pytest.approx(1, abs=0.05)


def test_what_is_missing_is_the_latents_of_silence(model: Path, encoded: Path) -> None:
    source = LatentSource(encoded, seed=0, crop_frames=400, num_validation=8)
    with torch.no_grad():
        silence = VAE.load(model).posterior(torch.zeros(1, 2, 100 * _HOP))
    filling = torch.cat([torch.from_numpy(source.draw(index)[0]["latents"][:, 101:]) for index in range(30)], dim=1)
    mean, std = silence.mean[0, :, 50], silence.std[0, :, 50]
    assert torch.allclose(filling.mean(1), mean, atol=0.05 * float(std.max()) + 2e-3)
    assert torch.allclose(filling.std(1), std, rtol=0.05)


def test_draws_are_reproducible_and_passes_whole(encoded: Path) -> None:
    first, second = (LatentSource(encoded, 5, 16, 8) for _ in range(2))
    for index in (7, 0, 3):
        np.testing.assert_array_equal(first.draw(index)[0]["latents"], second.draw(index)[0]["latents"])
        np.testing.assert_array_equal(
            first.draw_validation(index)["latents"],
            LatentSource(encoded, 6, 16, 8).draw_validation(index)["latents"],
        )
    names = [first.draw(index)[0]["prompt"] for index in range(9)]
    assert all(len(set(names[k : k + 3])) == 3 for k in (0, 3, 6))
    assert first.draw_validation(0)["prompt"] not in names


@pytest.mark.parametrize("num_workers", [0, 1])
def test_data_module(encoded: Path, num_workers: int) -> None:
    config = DataConfig(latents=str(encoded), crop_samples=50 * _HOP, batch_size=3, num_workers=num_workers)
    batch = next(iter(LatentDataModule(config, seed=0).train_dataloader()))
    assert batch["latents"].shape == (3, 4, 50)
    assert batch["latents"].dtype == torch.float32
    assert batch["frame_mask"].dtype == torch.bool
    assert batch["frame_mask"].sum(1).tolist() == [
        min(50, -(-_LENGTHS[prompt.removeprefix("noise ")] // _HOP)) for prompt in batch["prompt"]
    ]


def test_interrupted_runs_go_on_and_finished_shards_are_kept(
    model: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = LatentDataConfig(folder=str(songs), num_workers=0, validation_share=0)
    encode, calls = latent_folder.encode_clip, []

    def interrupted(vae: VAE, audio: np.ndarray | Path):
        calls.append(audio)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(vae, audio)

    monkeypatch.setattr(latent_folder, "encode_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.main(model, tmp_path / "out", data, clips_per_shard=2, device="cpu")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["index.json", "train-00000.tar"]
    with pytest.raises(FileNotFoundError, match="1 of 2 train shards are missing"):
        LatentSource(tmp_path / "out", 0, 16, 8)
    before = (tmp_path / "out" / "train-00000.tar").stat().st_mtime_ns
    monkeypatch.setattr(latent_folder, "encode_clip", encode)
    command.main(model, tmp_path / "out", data, clips_per_shard=2, device="cpu")
    assert (tmp_path / "out" / "train-00000.tar").stat().st_mtime_ns == before
    assert len(LatentSource(tmp_path / "out", 0, 16, 8).training) == 4


def test_processes_share_the_shards(model: Path, songs: Path, tmp_path: Path) -> None:
    data = LatentDataConfig(folder=str(songs), num_workers=1, validation_share=0)
    for process in range(2):
        command.main(model, tmp_path / "out", data, clips_per_shard=1, process_index=process, num_processes=2,
                     device="cpu")  # fmt: skip
        assert len(list((tmp_path / "out").glob("*.tar"))) == 2 * (process + 1)
    assert len(LatentSource(tmp_path / "out", 0, 16, 8).training) == 4


def test_unreadable_files_are_left_out(
    model: Path, songs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    for name in _LENGTHS:
        (folder / f"{name}.wav").write_bytes((songs / f"{name}.wav").read_bytes())
    (folder / "broken.flac").write_bytes(b"nothing" * 100)
    data = LatentDataConfig(folder=str(folder), num_workers=0, validation_share=0)
    command.main(model, tmp_path / "out", data, device="cpu")
    assert len(LatentSource(tmp_path / "out", 0, 16, 8).training) == 4
    assert "broken.flac" in caplog.text


def test_long_files_are_read_piece_by_piece(model: Path, songs: Path) -> None:
    vae = VAE.load(model)
    whole = encode_clip(vae, soundfile.read(songs / "b.wav", dtype="float32")[0].T)
    pieces = encode_clip(vae, songs / "b.wav", length=7_001)
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_clear_errors(model: Path, songs: Path, encoded: Path, tmp_path: Path) -> None:
    data = LatentDataConfig(folder=str(songs), num_workers=0, validation_share=0.25)
    with pytest.raises(ValueError, match="holds other latents"):
        command.main(model, encoded, data, seed=1, clips_per_shard=3, device="cpu")
    with pytest.raises(FileNotFoundError, match="no latents in"):
        LatentIndex.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        command.main(model, tmp_path / "no" / "out", data, device="cpu")
    with pytest.raises(ValueError, match=r"no kazoo, bagpipe in the corpus; it has rain, "):
        LatentDataConfig(kinds=("kazoo", "rain", "bagpipe"))
    with pytest.raises(ValueError, match=r"leave it out with data\.folder"):
        LatentDataConfig(kinds=("rain",), folder=str(songs))
    with pytest.raises(ValueError, match=r"data\.latents is not set"):
        LatentDataModule(DataConfig(), seed=0).train_dataloader()


def test_corpus_clips(model: Path, tmp_path: Path) -> None:
    command.main(model, tmp_path / "out", LatentDataConfig(num_workers=0), clips=2, validation_clips=1, device="cpu")
    source = LatentSource(tmp_path / "out", 0, 16, 8)
    assert (len(source.training), len(source.validation)) == (2, 1)
    (item,) = source.draw(0)
    assert item["prompt"]
    assert item["seconds_total"] >= 2


def test_clips_of_chosen_kinds_in_many_words(model: Path, tmp_path: Path) -> None:
    kinds = ("sustained note", "clock")
    command.main(model, tmp_path / "out", LatentDataConfig(num_workers=0, kinds=kinds), 6, 1, device="cpu")
    source = LatentSource(tmp_path / "out", 0, 16, 1)
    for shard, key in source.training:
        metadata = shard.json(key, "about")["metadata"]
        assert {layer["kind"] for layer in metadata["layers"]} & set(kinds)
        assert len(set(metadata["prompts"])) > 8
    assert source.index.origin["kinds"] == list(kinds)
    prompts = {source.draw(index)[0]["prompt"] for index in range(60)}
    assert len(prompts) > 20


def test_several_folders_are_one_source(model: Path, encoded: Path, tmp_path: Path) -> None:
    command.main(model, tmp_path / "more", LatentDataConfig(num_workers=0, kinds=("clock",)), 3, 0, device="cpu")
    one, both = LatentSource(encoded, 0, 16, 8), LatentSource((encoded, tmp_path / "more"), 0, 16, 8)
    assert len(both.training) == len(one.training) + 3
    assert [key for _, key in both.validation] == [key for _, key in one.validation]
    lengths = {both.draw(index)[0]["seconds_total"] for index in range(len(both.training))}
    assert len(lengths) == len(both.training)  # each once in a pass
    twice = LatentSource((encoded, tmp_path / "more", encoded), 0, 16, 8)
    assert len(twice.training) == 2 * len(one.training) + 3
    assert len(twice.validation) == len(one.validation)
    index = LatentIndex.load(tmp_path / "more")
    dataclasses.replace(index, origin=index.origin | {"vae": "another"}).save(tmp_path / "more")
    with pytest.raises(ValueError, match="latents of different autoencoders"):
        LatentSource((encoded, tmp_path / "more"), 0, 16, 8)


@pytest.mark.parametrize(("replay", "times_own", "times_replayed"), [(6, 2, 1), (1, 1, 3), (0, 1, 1)])
def test_tuning_draws_a_folder_and_replayed_clips_alike(
    model: Path, songs: Path, tmp_path: Path, replay: int, times_own: int, times_replayed: int
) -> None:
    config = DataConfig(folder=str(songs), replay=replay, num_workers=0, validation_share=0.25)
    data = TuningDataModule(config, model, tmp_path / "run/latents", 16, seed=5)
    data.prepare_data()
    data.setup()
    source = data.source
    assert isinstance(source, LatentSource)
    length = 3 * times_own + replay * times_replayed  # one pass: three of the four files train
    names = Counter(source.training[n][0].json(source.training[n][1], "about")["name"] for n in range(length))
    assert len(source.training) == length
    assert [count for name, count in names.items() if name.endswith(".wav")] == [times_own] * 3
    assert names["train/0"] == (times_replayed if replay else 0)
    assert source.draw(0)[0]["latents"].shape == (4, 16)
    assert {source.draw_validation(n)["prompt"] for n in range(8)} <= {f"noise {name}" for name in _LENGTHS}


def test_tuning_keeps_what_was_encoded(model: Path, songs: Path, tmp_path: Path) -> None:
    config = DataConfig(folder=str(songs), replay=2, num_workers=0)
    data = TuningDataModule(config, model, tmp_path / "latents", 16)
    data.prepare_data()
    shards = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    assert len(shards) == 3
    data.prepare_data()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")} == shards


def test_tuning_stops_where_only_replayed_clips_are_left(model: Path, songs: Path, tmp_path: Path) -> None:
    for name in "ab":
        shutil.copy(songs / f"{name}.wav", tmp_path)
    (training,), _ = split_entries(list_entries(tmp_path), 0.5)
    list_entries(tmp_path)[training].path.write_bytes(b"RIFF no audio")
    data = TuningDataModule(DataConfig(folder=str(tmp_path), replay=1, num_workers=0), model, tmp_path / "out", 16)
    data.prepare_data()
    with pytest.raises(ValueError, match=r"none of the training files in .* can be read"):
        data.setup()


@pytest.mark.parametrize("share", [k / 25 for k in range(1, 25)])
def test_every_cut_of_a_shard_is_noticed(encoded: Path, tmp_path: Path, share: float) -> None:
    folder = tmp_path / "latents"
    shutil.copytree(encoded, folder)
    shard = folder / "train-00000.tar"
    content = shard.read_bytes()
    for end in {round(share * len(content)), round(share * len(content)) // 512 * 512}:
        shard.write_bytes(content[:end])
        with pytest.raises(UserError, match=r"train-00000\.tar"):
            LatentSource(folder, 0, 16, 8)


def test_a_shard_of_fewer_clips_is_noticed_and_written_again(
    model: Path, songs: Path, encoded: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "latents"
    shutil.copytree(encoded, folder)
    with ShardWriter(folder / "train-00000.tar") as writer:
        writer.write("train00000000", {"about": {}, "mean": np.zeros((3, 4), np.float16)})
    with pytest.raises(UserError, match=r"holds 1 clips in 10240 bytes, of 2 in \d+; write it again"):
        LatentSource(folder, 0, 16, 8)
    data = LatentDataConfig(folder=str(songs), num_workers=0, validation_share=0.25)
    command.main(model, folder, data, clips_per_shard=2, device="cpu")
    assert sorted(_files(LatentSource(folder, 0, 16, 8))) == sorted(_LENGTHS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format": 99}, "has format 99, expected 2"),
        ({"num_clips": 10**9}, "damaged .shards must list"),
        ({"num_clips": "4"}, "num_clips must be a whole number"),
        ({"clips_per_shard": 0}, "clips_per_shard must be a whole number of at least 1, got 0"),
        ({"hop_length": True}, "hop_length must be"),
        ({"origin": []}, "origin names no vae"),
        ({"silence_std": [1.0]}, "silence_mean and silence_std"),
        ({"silence_mean": None}, "silence_mean and silence_std"),
        ({"shards": {}}, "shards must list 3 shards"),
        ({"surprise": 1}, "fields surprise missing or unknown"),
        ({"shards": None}, "are not finished"),
    ],
)
def test_a_wrong_index_is_refused(encoded: Path, tmp_path: Path, change: dict, expected: str) -> None:
    folder = tmp_path / "latents"
    shutil.copytree(encoded, folder)
    index = json.loads((folder / "index.json").read_text()) | change
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=expected):
        LatentSource(folder, 0, 16, 8)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '{"format": 2}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(UserError, match=r"index\.json"):
        LatentIndex.load(tmp_path)


def test_latents_that_overflow_are_left_out(
    model: Path, songs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A sound far beyond full scale: every sample is finite, its latents in half precision are not."""
    folder = tmp_path / "songs"
    shutil.copytree(songs, folder)
    loud = np.full((44_100, 2), 99.0, np.float32)
    soundfile.write(folder / "loud.wav", loud, 44_100, subtype="FLOAT")
    vae = VAE.load(model)
    vae.latent_std.mul_(1e-4)
    vae.save(tmp_path / "model", torch.float32)
    data = LatentDataConfig(folder=str(folder), num_workers=0, validation_share=0, max_unreadable_share=0.9)
    command.main(tmp_path / "model", tmp_path / "out", data, device="cpu")
    source = LatentSource(tmp_path / "out", 0, 16, 8)
    assert "loud.wav" in caplog.text
    assert "not finite in half precision" in caplog.text
    for _, mean, std in _files(source).values():
        assert np.isfinite(mean).all()
        assert np.isfinite(std).all()


def test_the_processes_of_torchrun_share_the_shards(
    model: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = LatentDataConfig(folder=str(songs), num_workers=0, validation_share=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        with pytest.raises((FileNotFoundError, UserError)):
            LatentSource(tmp_path / "out", 0, 16, 8)
        monkeypatch.setenv("RANK", rank)
        command.main(model, tmp_path / "out", data, clips_per_shard=1, device="cpu")
    assert len(LatentSource(tmp_path / "out", 0, 16, 8).training) == 4


def test_audio_shards_are_encoded_like_their_files(model: Path, songs: Path, encoded: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer:
        for path in sorted(songs.glob("*.wav")):
            metadata = json.loads(path.with_suffix(".json").read_text()) | {"path": path.name}
            writer.write(path.stem, {"wav": path.read_bytes(), "json": json.dumps(metadata).encode()})
        writer.write("broken", {"wav": b"RIFF no audio"})
    data = LatentDataConfig(shards=str(tmp_path / "a.tar"), num_workers=1, validation_share=0.2)
    command.main(model, tmp_path / "out", data, device="cpu")
    found, expected = _files(LatentSource(tmp_path / "out", 0, 16, 8)), _files(LatentSource(encoded, 0, 16, 8))
    assert sorted(found) == sorted(expected)
    for name, (about, mean, std) in expected.items():
        np.testing.assert_array_equal(found[name][1], mean)
        np.testing.assert_array_equal(found[name][2], std)
        assert found[name][0]["metadata"]["prompt"] == about["metadata"]["prompt"]
    with pytest.raises(UserError, match=r"they must lie on this machine: fetch pipe:cat a\.tar first"):
        command.main(model, tmp_path / "more", LatentDataConfig(shards="pipe:cat a.tar"), device="cpu")
    with pytest.raises(UserError, match=r"data\.shards goes alone"):
        LatentDataConfig(shards="a.tar", folder="b")
