"""Diffusion training as a user runs it: outputs, exact resume, dropout of conditions, the gap."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data import latent_statistics
from data.audio_writer import write_audio
from data.cli import run
from data.clips import LatentDataConfig
from models.queue import QueueConfig
from models.text_to_audio import TextToAudio
from tests.train.conftest import train
from train.diffusion import main
from train.diffusion_setup import default_config
from train.diffusion_training import ConditioningConfig, DemoConfig, DiffusionTraining, NoiseConfig, known_seconds
from train.gap import level_losses, prompt_share
from train.noise_levels import NoiseLevelConfig
from train.optimisation import OptimiserConfig
from train.trainer import CONFIGS, step_generators


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_parts: list[str]) -> Path:
    return train("diffusion", tmp_path_factory.mktemp("diffusion") / "run", *tiny_parts)


def test_a_run_leaves_logs_demos_and_a_model_that_generates(tiny_run: Path):
    with (tiny_run / "csv/version_0/metrics.csv").open() as file:
        logged = {key for row in csv.DictReader(file) for key, value in row.items() if value}
    assert {"train/loss", "val/loss", "val/gap", "val/one_level/t0.28", "val/ramp/t0.28"} <= logged
    assert len(list((tiny_run / "demos/step_0000020").glob("*.wav"))) == 2
    model = TextToAudio.load(tiny_run / "export")
    assert model.config.window_frames == 32
    assert model.config.queues == (QueueConfig(context_frames=8, chunk_frames=4, num_chunks=6, steps_per_shift=3),)
    known = model.config.known_seconds
    assert known is not None
    assert 8 <= known <= 40
    assert set(json.loads((tiny_run / "export/config.json").read_text())) == {
        "vae",
        "text_encoder",
        "conditioner",
        "unet",
        "training",
        "files",
    }


def test_several_queues_are_trained_for_validated_and_exported(tmp_path: Path, tiny_parts: list[str]):
    queues = [QueueConfig(context_frames=8, chunk_frames=4, num_chunks=4), QueueConfig(context_frames=4, num_chunks=1)]
    options = [*tiny_parts, "--model.queues", json.dumps([dataclasses.asdict(queue) for queue in queues])]
    options += ["--noise.mixture.queue_weights", "[3, 1]", "--noise.finish_share", "0", "--trainer.max_steps", "2"]
    folder = train("diffusion", tmp_path / "run", *options, "--trainer.validate_every_steps", "2")
    with (folder / "csv/version_0/metrics.csv").open() as file:
        logged = {key: float(value) for row in csv.DictReader(file) for key, value in row.items() if value}
    assert 0.5 < logged["val/gap"] < 2
    assert 0.5 < logged["val/gap_1"] < 2
    assert TextToAudio.load(folder / "export").config.queues == tuple(queues)


@pytest.mark.parametrize(
    ("lengths", "known"), [([], 0), ([4] * 7, 4), ([3] * 89 + [500] * 11, 500), ([3] * 90 + [500] * 10, 3)]
)
def test_a_model_knows_the_lengths_of_nine_samples_in_ten(lengths: list[int], known: int):
    assert known_seconds(torch.bincount(torch.tensor(lengths, dtype=torch.long), minlength=513)) == known


def test_resumed_training_equals_uninterrupted_training(
    tmp_path: Path, tiny_run: Path, tiny_parts: list[str], assert_same_weights
):
    train("diffusion", tmp_path / "run", "--trainer.max_steps", "7", "--noise.finish_share", "0", *tiny_parts)
    train("diffusion", tmp_path / "run", "--resume", "last", *tiny_parts)
    assert_same_weights(tmp_path / "run", tiny_run)


def test_a_training_with_muon_resumes_too(tmp_path: Path, tiny_parts: list[str], assert_same_weights):
    options = [*tiny_parts, "--optimiser.name", "muon", "--noise.finish_share", "0"]
    train("diffusion", tmp_path / "whole", *options, "--trainer.max_steps", "6")
    train("diffusion", tmp_path / "parts", *options, "--trainer.max_steps", "3")
    train("diffusion", tmp_path / "parts", *options, "--trainer.max_steps", "6", "--resume", "last")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--optimiser.name", "muon", "--trainer.strategy", "fsdp"], "muon needs whole matrices on every device"),
        (["--optimiser.name", "sgd"], "optimiser.name"),
        (["--init_from", "model", "--vae", "other"], "--init_from goes on from a whole model, with its own vae"),
        (["--data.replay", "3"], "data.replay is for fine-tuning a whole model"),
        (
            ["--data.latents", "a", "--data.folder", "b"],
            "give one of data.folder, data.mixture, data.shards and data.latents, got folder and latents",
        ),
        (["--noise.mixture.queue_weights", "[1, 2]"], "queue_weights must be one for each of the 1 model.queues"),
    ],
)
def test_an_optimiser_that_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
):
    with pytest.raises(SystemExit) as stop:
        train("diffusion", tmp_path / "run", *options)
    assert stop.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_takes_prompts_of_any_length(tmp_path: Path, tiny_parts: list[str]):
    options = ["--compile", "true", "--trainer.max_steps", "4", "--noise.finish_share", "0"]
    folder = train("diffusion", tmp_path / "run", *options, *tiny_parts)
    with (folder / "csv/version_0/metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == 4
    assert all(0 < loss < 10 for loss in losses)


def test_fine_tuning_starts_from_the_whole_model(tmp_path: Path, tiny_run: Path):
    start = TextToAudio.load(tiny_run / "export")
    options = ["--init_from", str(tiny_run / "export"), "--trainer.max_steps", "2", "--optimiser.learning_rate", "0"]
    folder = train("diffusion", tmp_path / "run", *options)
    tuned = TextToAudio.load(folder / "export")
    for key, value in start.unet.state_dict().items():
        torch.testing.assert_close(tuned.unet.state_dict()[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("crop_samples", "window"), [("16384", 32), ("65000", 64)])
def test_going_on_has_a_configuration_of_its_own(tmp_path: Path, tiny_run: Path, crop_samples: str, window: int):
    new, tuning = CONFIGS / "demo/diffusion.yaml", CONFIGS / "finetune/diffusion.yaml"
    assert default_config(["--run", "runs/x"], new, tuning) == new
    for given in (["--init_from", "model"], ["--run", "runs/x", "--init_from=model"]):
        assert default_config(given, new, tuning) == tuning
    options = ["--config", str(tuning), "--init_from", str(tiny_run / "export")]
    options += ["--run", str(tmp_path / "run"), "--demo.prompts", "[]"]
    small = ["--data.crop_samples", crop_samples, "--data.batch_size", "2", "--data.num_workers", "0"]
    small += ["--trainer.max_steps", "1", "--trainer.validation_batches", "0"]
    run(main, argv=[*options, *small])
    assert TextToAudio.load(tmp_path / "run/export").config.window_frames == window  # the model's own, or longer


def test_fine_tuning_warns_of_latents_unlike_the_models(
    tmp_path: Path, tiny_run: Path, caplog: pytest.LogCaptureFixture
):
    gains, generator = {"noise": 0.2, "silence": 0.0}, torch.Generator().manual_seed(0)
    for name, gain in gains.items():
        (tmp_path / name).mkdir()
        for index in range(4):
            write_audio(tmp_path / name / f"{index}.wav", gain * torch.randn(2, 60_000, generator=generator))
            (tmp_path / name / f"{index}.txt").write_text(name)
    model = shutil.copytree(tiny_run / "export", tmp_path / "model")
    latent_statistics.main(model, LatentDataConfig(folder=str(tmp_path / "noise")), force=True)
    options = ["--init_from", str(model), "--trainer.max_steps", "1", "--data.replay", "2", "--data.folder"]
    folder = train("diffusion", tmp_path / "alike", *options, str(tmp_path / "noise"))
    assert {path.parent.name for path in folder.rglob("train-*.tar")} == {"own", "replayed"}
    assert "off the checkpoint's statistics" not in caplog.text
    train("diffusion", tmp_path / "unlike", *options, str(tmp_path / "silence"))
    assert "off the checkpoint's statistics" in caplog.text


def training(tiny_run: Path, **shares: float) -> DiffusionTraining:
    model, conditioning = TextToAudio.load(tiny_run / "export"), ConditioningConfig(**shares)
    return DiffusionTraining(model, NoiseConfig(), conditioning, OptimiserConfig(), DemoConfig(), num_steps=100, seed=0)


def batch(num_clips: int, start: float, total: float) -> dict[str, Any]:
    return {
        "prompt": ["rain"] * num_clips,
        "seconds_start": torch.full((num_clips,), start),
        "seconds_total": torch.full((num_clips,), total),
    }


def drawn(module: DiffusionTraining, clips: dict[str, Any], start: int = 0, window: int = 32):
    """Draw the conditioning of windows that all begin at a frame."""
    size = len(clips["prompt"])
    generators = step_generators(seed=0, step=0, batch=size)
    return module._draw_conditioning(clips, generators, torch.full((size,), start), torch.full((size,), window))


def test_text_and_timing_are_dropped_at_their_shares(tiny_run: Path):
    module = training(tiny_run, dropout=0.2, timing_dropout=0.5)
    inside, _ = drawn(module, batch(2000, 5.0, 30.0))
    null = module.model.null_condition(1)
    is_null = (inside.context_mask.sum(dim=1) == null.context_mask.sum()) & torch.isclose(
        inside.context[:, 0], null.context[:, 0]
    ).all(dim=1)
    assert is_null.float().mean().item() == pytest.approx(0.2, abs=0.03)
    unknown = module.model.condition(["rain"], None, None).context[:, -1]
    last = inside.context[:, inside.context_mask.sum(dim=1).max() - 1]
    assert torch.isclose(last, unknown).all(dim=1).float().mean().item() == pytest.approx(0.4, abs=0.04)
    whole, _ = drawn(module, batch(500, 0.0, 30.0))
    assert not torch.isclose(whole.context[:, inside.context_mask.sum(dim=1).max() - 1], unknown).all(dim=1).any()


def test_a_window_is_told_where_it_begins_in_its_crop(tiny_run: Path):
    module = training(tiny_run, dropout=0.0, timing_dropout=0.0)
    conditioning, _ = drawn(module, batch(2, 5.0, 30.0), start=177)
    begins = 5 + 177 * module.model.vae.hop_length / 44_100
    torch.testing.assert_close(conditioning.context[:1], module.model.condition(["rain"], begins, 30.0).context)


def test_silence_behind_a_clip_is_shown_where_its_length_is_told(tiny_run: Path):
    module = training(tiny_run, dropout=0.2, timing_dropout=0.5, padding_share=0.5)
    conditioning, shows = drawn(module, batch(2000, 0.0, 0.5))  # its end is in the window
    assert shows.float().mean().item() == pytest.approx(0.4, abs=0.04)
    null = module.model.null_condition(1).context[:, 0]
    assert not torch.isclose(conditioning.context[shows, 0], null).all(dim=1).any()
    assert not drawn(module, batch(200, 0.0, 9_999.0))[1].any()  # longer than the tables: the length is not told
    assert not drawn(training(tiny_run), batch(200, 0.0, 0.5))[1].any()


def test_windows_of_two_lengths_give_the_loss_of_one_call_that_hides_the_rest(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
):
    module = training(tiny_run, padding_share=0.5)
    module.noise = NoiseConfig(mixture=NoiseLevelConfig(uniform=1.0, ramp=1.0))
    queue = QueueConfig(context_frames=8, num_chunks=2, chunk_frames=4)
    module.model.config = dataclasses.replace(module.model.config, queues=(queue,))
    strategy = SimpleNamespace(reduce=lambda value, **_: value)
    monkeypatch.setattr(DiffusionTraining, "trainer", SimpleNamespace(world_size=1, strategy=strategy))
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    frame_mask = torch.arange(32) < torch.tensor([32, 20, 10, 32, 32, 32, 9, 32])[:, None]
    latents = torch.randn(8, 8, 32, generator=torch.Generator().manual_seed(0))
    clips = batch(8, 0.0, 0.7) | {"latents": latents, "frame_mask": frame_mask}
    shapes = []
    module.model.unet.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))

    def loss_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        module.zero_grad()
        module.num_batches = 0
        loss = module.training_step(clips, 0)
        loss.backward()
        return loss.detach(), torch.cat(
            [p.grad.flatten() for p in module.model.unet.parameters() if p.grad is not None]
        )

    grouped = loss_and_gradient()
    monkeypatch.setattr(module, "is_sharded", True)
    whole = loss_and_gradient()
    assert shapes[-1] == (8, 8, 32)
    assert {shape[2] for shape in shapes[:-1]} == {16, 32}
    assert sum(shape[0] for shape in shapes[:-1]) == 8
    torch.testing.assert_close(grouped, whole, rtol=1e-4, atol=1e-5)


def test_a_piece_longer_than_the_tables_has_unknown_timing(tiny_run: Path):
    module = training(tiny_run)
    conditioning = module._condition(batch(1, 10.0, 9_999.0), module.model.conditioner)
    expected = module.model.condition(["rain"], 10.0, None)
    torch.testing.assert_close(conditioning.context, expected.context)


def test_gap_is_one_for_a_denoiser_that_looks_at_its_own_frame_alone():
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(4, 8, 32, generator=generator) for _ in range(2))
    queue = QueueConfig(context_frames=8, num_chunks=6, chunk_frames=4)
    mask = torch.ones(4, 32, dtype=torch.bool)

    def frame_wise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x * t[:, None]

    def worse_where_levels_differ(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return frame_wise(x, t) * (1 + (t.std(dim=1) > 0.01)[:, None, None])

    assert level_losses(frame_wise, latents, noise, mask, queue)["gap"].item() == pytest.approx(1.0, abs=1e-5)
    assert level_losses(worse_where_levels_differ, latents, noise, mask, queue)["gap"].item() > 1.1


def test_prompt_share_is_what_the_prompt_explains_of_the_variance():
    generator = torch.Generator().manual_seed(0)
    told, untold, noise = (torch.randn(8, 64, 32, generator=generator) for _ in range(3))
    mask = torch.arange(32).expand(8, 32) < 20
    latents = told * 0.6 + untold * 0.8

    def prompted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert torch.equal(x, noise)
        assert (t == 1).all()
        return -0.6 * told  # at pure noise v is minus the latents

    def unprompted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x) * t[:, None]

    assert prompt_share(prompted, unprompted, latents, noise, mask).item() == pytest.approx(0.36, abs=0.02)
    assert prompt_share(unprompted, unprompted, latents, noise, mask).item() == 0.0
