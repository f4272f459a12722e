"""The benchmark of data: every source is timed, and every function counts for one stage."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data import latents
from data.benchmark import crop_seconds, main, stage_of
from data.clips import LatentDataConfig
from data.tar_shards import ShardWriter
from models.errors import UserError
from models.vae import VAE, VAEConfig
from models.vae_waveform import WaveformConfig


def test_every_source_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "songs").mkdir()
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (48_000, 2))
    for name in "abc":
        soundfile.write(tmp_path / "songs" / f"{name}.flac", noise, 48_000)
    with ShardWriter(tmp_path / "a.tar") as writer:
        for path in sorted((tmp_path / "songs").iterdir()):
            writer.write(path.stem, {"flac": path.read_bytes(), "json": json.dumps({"prompt": "x"}).encode()})
    VAE(VAEConfig(latent_channels=4, waveform=WaveformConfig(encoder_width=2, decoder_width=32))).save(
        tmp_path / "model", torch.float32
    )
    data = LatentDataConfig(shards=str(tmp_path / "a.tar"), num_workers=0, validation_share=0)
    latents.main(tmp_path / "model", tmp_path / "latents", data, device="cpu")
    main(
        folder=str(tmp_path / "songs"), shards=str(tmp_path / "a.tar"), latents=str(tmp_path / "latents"),
        workers=(0, 1), batch_size=2, crop_samples=8_192, batches=3,
    )  # fmt: skip
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["source", "folder", "shards", "latents"]
    assert all(float(cell.removesuffix(" s/s")) > 1 for row in rows[1:] for cell in row[1:3])
    assert "resample" in rows[1][3]
    assert "decode" in rows[2][3]
    assert "draw" in rows[3][3]
    assert crop_seconds({"latents": str(tmp_path / "latents"), "crop_samples": 1_025}) == 2_048 / 44_100


def test_stages_and_errors() -> None:
    assert stage_of("/x/soundfile.py", "_cdata_io") == "decode"
    assert stage_of("/x/soxr/__init__.py", "resample") == "resample"
    assert stage_of("/x/audio.py", "read") == "other"
    with pytest.raises(UserError, match="give something to measure"):
        main()
