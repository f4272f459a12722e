import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from jsonargparse import ArgumentParser

from data.datamodule import AudioDataModule, DataConfig
from models.clap import Clap, ClapConfig
from models.text_encoder import TextEncoder
from models.tokenizer import train_tokenizer
from train.clap import DEFAULT_CONFIG, ClapTraining, TokenizerConfig, main
from train.optimisation import OptimiserConfig
from train.tokenizer import captions, prepare_tokenizer
from train.trainer import TrainerConfig

CONFIGS = DEFAULT_CONFIG.parents[1]


def arguments(name: str) -> dict[str, Any]:
    """The arguments of main that configs/<name>/clap.yaml gives."""
    parser = ArgumentParser()
    parser.add_function_arguments(main)
    parsed = parser.parse_object(yaml.safe_load((CONFIGS / name / "clap.yaml").read_text()))
    return parser.instantiate(parsed).as_dict()


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Any]:
    settings = arguments("tiny")
    settings["trainer"] = TrainerConfig(
        max_steps=4, accelerator="cpu", log_every_steps=1, validate_every_steps=2, validation_batches=2
    )
    settings["optimiser"] = dataclasses.replace(settings["optimiser"], warmup_steps=1, final_share=1.0)
    settings["tokenizer"] = TokenizerConfig(num_captions=50)
    settings["run"] = tmp_path / "run"
    return settings


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "last.ckpt", weights_only=True)["state_dict"]


def test_training_exports_a_model_and_logs_retrieval(tiny: dict[str, Any]) -> None:
    main(**tiny)
    clap = Clap.load(tiny["run"] / "export")
    encoder = TextEncoder.load(tiny["run"] / "export")
    assert clap.config == tiny["model"]
    assert encoder.width == clap.config.text.width
    trained = weights(tiny["run"])["clap.text.tokens.weight"]
    torch.testing.assert_close(clap.text.tokens.weight.data, trained, atol=1e-3, rtol=0)
    (metrics,) = (tiny["run"] / "csv").rglob("metrics.csv")
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    for direction in ("text_to_audio", "audio_to_text"):
        values = [float(row[f"val/{direction}_R@10"]) for row in rows if row.get(f"val/{direction}_R@10")]
        assert len(values) == 2
        assert all(0 <= value <= 1 for value in values)
    assert all(float(row["train/loss"]) > 0 for row in rows if row["train/loss"])


def test_resumed_training_equals_uninterrupted_training(tiny: dict[str, Any], tmp_path: Path) -> None:
    main(**{**tiny, "run": tmp_path / "whole"})
    half = dataclasses.replace(tiny["trainer"], max_steps=2)
    main(**{**tiny, "run": tmp_path / "parts", "trainer": half})
    main(**{**tiny, "run": tmp_path / "parts", "resume": "last"})
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, atol=0, rtol=0, msg=key)


def test_a_few_clips_are_learned_by_heart() -> None:
    torch.manual_seed(0)
    model: ClapConfig = arguments("tiny")["model"]
    prompts = ["a siren on the left", "a siren on the right", "slow rain", "a note at 120 bpm"]
    settings = OptimiserConfig(learning_rate=3e-3, warmup_steps=1)
    training = ClapTraining(model, settings, train_tokenizer(prompts, 600), num_steps=10_000, seed=0)
    batch = {
        "audio": torch.randn(4, 2, model.audio.clip_samples) * torch.logspace(-3, -1, 8).reshape(4, 2, 1),
        "num_samples": torch.tensor([63_488, 63_488, 20_000, 40_000]),
        "prompt": prompts,
    }
    training.log = training.log_dict = lambda *_args, **_settings: None  # type: ignore[method-assign]
    optimiser = training.configure_optimizers()
    losses = []
    for step in range(60):
        loss = training.training_step(batch, step)
        optimiser.zero_grad()
        loss.backward()
        training.on_before_optimizer_step(optimiser)
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.0
    assert losses[-1] < 0.2


def test_tokenizer_learns_the_captions_of_a_folder(tmp_path: Path) -> None:
    for name, caption in (("a", "quokka gallop"), ("b", "quokka chant")):
        soundfile.write(tmp_path / f"{name}.wav", torch.zeros(500, 2).numpy(), 44_100)
        (tmp_path / f"{name}.txt").write_text(caption)
    data = AudioDataModule(DataConfig(folder=str(tmp_path), crop_samples=1024, validation_share=0), 0)
    assert set(captions(data, 10)) == {"quokka gallop", "quokka chant"}
    tokenizer = prepare_tokenizer(data, 600, 10, tmp_path / "run", None)
    assert "Ġquokka" in tokenizer.get_vocab()
    assert prepare_tokenizer(data, 600, 10, tmp_path / "run", "last").to_str() == tokenizer.to_str()
    with pytest.raises(FileNotFoundError, match="no tokenizer in"):
        prepare_tokenizer(data, 600, 10, tmp_path / "elsewhere", "last")


def test_captions_of_the_corpus_depend_on_the_seed_alone() -> None:
    first, again, other = (list(captions(AudioDataModule(DataConfig(), seed), 30)) for seed in (0, 0, 1))
    assert first == again != other
    assert not any("we hear" in caption for caption in first)  # a held-out wording


@pytest.mark.parametrize("name", ["tiny", "demo", "stable_audio"])
def test_configurations_build(name: str) -> None:
    settings = arguments(name)
    with torch.device("meta"):
        clap = Clap(settings["model"], train_tokenizer(["a siren"], 300))
    text = sum(p.numel() for p in clap.text.parameters())
    audio = sum(p.numel() for p in clap.head.audio.parameters())
    expected = {"tiny": (40e3, 5.1e3), "demo": (3e6, 2.3e6), "stable_audio": (124.6e6, 27.5e6)}[name]
    assert (text, audio) == pytest.approx(expected, rel=0.2)
    assert settings["data"].crop_samples >= settings["model"].audio.clip_samples
