"""The reconstruct command: files and folders through a tiny VAE, the same as whole-file coding."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data import encoding
from data.cli import run
from infer import reconstruct
from infer.metrics.reconstruction import ReconstructionReport
from infer.reconstruct import format_table, main
from models.vae import VAE, VAEConfig
from models.vae_waveform import WaveformConfig

RATE = 44_100


def save_tiny_vae(folder: Path, **changes: int) -> VAE:
    layers = WaveformConfig(
        encoder_width=2, encoder_strides=(4, 8), decoder_width=16, decoder_strides=(8, 4), dilations=(1, 3)
    )
    torch.manual_seed(0)
    vae = VAE(VAEConfig(latent_channels=4, waveform=layers, **changes))  # pyright: ignore[reportArgumentType]
    output = list(vae.decoder.children())[-2]
    assert isinstance(output, torch.nn.Conv1d)
    output.weight.data *= 10
    vae.save(folder, torch.float32)
    return VAE.load(folder)


@pytest.fixture
def vae(tmp_path: Path) -> VAE:
    return save_tiny_vae(tmp_path / "model")


def write_noise(path: Path, num_samples: int, rate: int = RATE, channels: int = 2, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(exist_ok=True, parents=True)
    audio = 0.3 * np.random.default_rng(seed).standard_normal((num_samples, channels)).clip(-3, 3)
    soundfile.write(path, audio, rate)
    return audio


def test_file_equals_whole_coding(vae: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoding, "CPU_PIECE_SAMPLES", 3_200)
    write_noise(tmp_path / "in.wav", 10_001)
    main(tmp_path / "in.wav", tmp_path / "out.wav", tmp_path / "model")
    original = soundfile.read(tmp_path / "in.wav", dtype="float32")[0].T
    result, rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    with torch.no_grad():
        whole = vae.decode(vae.encode(torch.from_numpy(original)[None]))[0, :, :10_001]
    assert rate == RATE
    assert np.abs(result).max() > 0.05
    np.testing.assert_allclose(result.T, whole.numpy(), atol=1 / 32_768)


@pytest.mark.parametrize("num_samples", [1, 31, 32, 16 * 32 + 1])
def test_every_length_is_kept(vae: VAE, tmp_path: Path, num_samples: int):
    write_noise(tmp_path / "in.wav", num_samples)
    main(tmp_path / "in.wav", tmp_path / "out.flac", tmp_path / "model", metrics=True)
    assert soundfile.info(tmp_path / "out.flac").frames == num_samples
    assert vae.hop_length == 32


@pytest.mark.usefixtures("vae")
def test_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_noise(tmp_path / "in" / "a.wav", 5_000)
    write_noise(tmp_path / "in" / "deep" / "b.flac", 3_000, rate=22_050, channels=1)
    write_noise(tmp_path / "in" / "c.mp3", 4_000)
    (tmp_path / "in" / "notes.txt").write_text("no audio")
    main(tmp_path / "in", tmp_path / "out", tmp_path / "model", metrics=True)
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["a.wav", "c.mp3.wav", "deep/b.flac"]
    assert soundfile.info(tmp_path / "out" / "deep" / "b.flac").frames == 6_000
    table = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in table] == ["file", "a.wav", "c.mp3", "deep/b.flac", "median"]
    assert all(len(row) == 6 for row in table)
    assert float(table[-1][1]) == pytest.approx(np.median([float(row[1]) for row in table[1:4]]), abs=1e-3)


def test_silent_and_nearly_silent_files_do_not_rule_the_summary():
    def row(stft: float | None) -> ReconstructionReport:
        return ReconstructionReport(
            stft_distance=stft, mel_distance=stft, si_sdr_db=stft, loudness_difference_lu=None, width_difference=None
        )

    table = format_table({"a": row(3.0), "nearly silent": row(32_720.0), "b": row(5.0), "silent": row(None)})
    rows = {cells[0]: cells[1:] for cells in (line.split("\t") for line in table.splitlines())}
    assert rows["silent"][0] == "-"
    assert rows["median (1 of 4 silent or constant)"] == ["5.000", "5.000", "5.000", "-", "-"]


@pytest.mark.usefixtures("vae")
@pytest.mark.parametrize(
    ("name", "subtype", "rate", "channels"),
    [
        ("in.wav", "PCM_U8", 8_000, 1),
        ("in.wav", "FLOAT", 96_000, 6),
        ("in.flac", "PCM_24", 48_000, 2),
        ("in.ogg", "OPUS", 48_000, 1),
        ("in.ogg", "VORBIS", 11_025, 2),
        ("in.aiff", "PCM_16", 44_100, 2),
    ],
)
def test_odd_formats(tmp_path: Path, name: str, subtype: str, rate: int, channels: int):
    audio = 0.3 * np.random.default_rng(0).standard_normal((rate // 4, channels)).clip(-3, 3)
    soundfile.write(tmp_path / name, audio, rate, subtype=subtype)
    main(tmp_path / name, tmp_path / "out.wav", tmp_path / "model")
    result, result_rate = soundfile.read(tmp_path / "out.wav")
    assert result_rate == RATE
    assert result.shape == (pytest.approx(RATE // 4, abs=2), 2)
    assert np.abs(result).max() > 0.01


@pytest.mark.usefixtures("vae")
def test_existing_files_are_kept_unless_they_may_be_replaced(tmp_path: Path):
    write_noise(tmp_path / "in" / "a.wav", 5_000)
    write_noise(tmp_path / "in" / "b.wav", 5_000)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.wav").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"b\.wav exists already: .*--overwrite"):
        main(tmp_path / "in", tmp_path / "out", tmp_path / "model")
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [b"mine"]
    main(tmp_path / "in", tmp_path / "out", tmp_path / "model", overwrite=True)
    assert soundfile.info(tmp_path / "out" / "b.wav").frames == 5_000


@pytest.mark.usefixtures("vae")
@pytest.mark.parametrize("metrics", [False, True])
def test_an_empty_file_is_one_line(tmp_path: Path, metrics: bool):
    soundfile.write(tmp_path / "in.wav", np.zeros((0, 2)), RATE)
    with pytest.raises(ValueError, match=r"in\.wav.* (empty|no audio|no samples)"):
        main(tmp_path / "in.wav", tmp_path / "out.wav", tmp_path / "model", metrics=metrics)
    assert not (tmp_path / "out.wav").exists()


def test_silence_has_metrics_where_they_are_defined(vae: VAE, tmp_path: Path):
    soundfile.write(tmp_path / "in.wav", np.zeros((5_000, 2)), RATE)
    report = reconstruct.reconstruct_file(vae, tmp_path / "in.wav", tmp_path / "out.wav", measure=True)
    assert report is not None
    assert report.is_silent
    assert report.si_sdr_db is None
    assert report.loudness_difference_lu is None


@pytest.mark.usefixtures("vae")
def test_unreadable_file_is_named_and_the_others_are_done(tmp_path: Path):
    write_noise(tmp_path / "in" / "a.wav", 5_000)
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(ValueError, match=r"1 of 2 files could not be read: broken\.wav"):
        main(tmp_path / "in", tmp_path / "out", tmp_path / "model")
    assert soundfile.info(tmp_path / "out" / "a.wav").frames == 5_000


def test_interruption_leaves_a_playable_file(vae: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_noise(tmp_path / "in.wav", 2_000)

    def interrupted(*_: object) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield torch.zeros(2, 700), torch.zeros(2, 700)
        raise KeyboardInterrupt

    monkeypatch.setattr(reconstruct, "reconstruct", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reconstruct.reconstruct_file(vae, tmp_path / "in.wav", tmp_path / "out.wav", measure=False)
    assert soundfile.info(tmp_path / "out.wav").frames == 700


def test_mono_model_writes_both_sides(tmp_path: Path):
    save_tiny_vae(tmp_path / "model", audio_channels=1)
    write_noise(tmp_path / "in.wav", 2_000)
    main(tmp_path / "in.wav", tmp_path / "out.wav", tmp_path / "model", metrics=True)
    result = soundfile.read(tmp_path / "out.wav")[0]
    assert np.abs(result).max() > 0
    assert (result[:, 0] == result[:, 1]).all()


@pytest.mark.usefixtures("vae")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.wav", "out.wav"], "no such file or folder"),
        (["in.wav", "no_folder/out.wav"], "does not exist"),
        (["in.wav", "in.wav"], "written over itself"),
        (["in.wav", "out.xyz"], ".xyz"),
        (["empty", "out"], "no audio"),
        (["in.wav", "out.wav", "--model", "nothing"], "nothing"),
        (["in.wav", "out.wav", "--modle", "m"], "--modle"),
        (["in.wav"], "destination"),
    ],
)
def test_user_errors_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    write_noise(tmp_path / "in.wav", 100)
    (tmp_path / "empty").mkdir()
    before = (tmp_path / "in.wav").read_bytes()
    if "--model" not in arguments:
        arguments = [*arguments, "--model", "model"]
    with pytest.raises(SystemExit) as stop:
        run(main, argv=arguments, positionals=("source", "destination"))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert message in error
    assert (tmp_path / "in.wav").read_bytes() == before
