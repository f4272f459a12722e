"""Every number of a training's configuration has bounds, and is refused by its option's name before anything loads."""

from pathlib import Path

import pytest

from tests.train.conftest import train


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("vae", "trainer.devices", "0"),
        ("vae", "trainer.devices", "-2"),
        ("vae", "trainer.devices", "banana"),
        ("vae", "trainer.max_time", "banana"),
        ("vae", "trainer.validation_batches", "-1"),
        ("vae", "trainer.max_steps", "0"),
        ("vae", "trainer.accumulate_grad_batches", "0"),
        ("vae", "trainer.keep_every_steps", "-1"),
        ("vae", "trainer.accelerator", "banana"),
        ("vae", "trainer.strategy", "banana"),
        ("vae", "data.crop_samples", "1"),
        ("vae", "data.crop_samples", "100000000000"),
        ("vae", "data.validation_share", "nan"),
        ("vae", "optimiser.warmup_steps", "-5"),
        ("vae", "optimiser.gradient_clip", "-1"),
        ("vae", "optimiser.learning_rate", "nan"),
        ("vae", "optimiser.ema_decay", "1"),
        ("vae", "stages.joint_steps", "-1"),
        ("vae", "loss.kl_weight", "-1"),
        ("vae", "loss.spectral.power_floor", "nan"),
        ("vae", "loss.spectral.mel_bins", "-3"),
        ("vae", "seed", "-1"),
        ("clap", "seed", "100000000000000000000"),
        ("clap", "tokenizer.num_captions", "0"),
        ("diffusion", "conditioning.dropout", "1.5"),
        ("diffusion", "noise.finish_share", "-0.1"),
        ("diffusion", "noise.mixture.shift", "inf"),
        ("diffusion", "demo.num_steps", "0"),
        ("diffusion", "demo.guidance_scale", "nan"),
        ("diffusion", "model.window_frames", "0"),
    ],
)
def test_a_number_out_of_bounds_is_one_line(
    name: str, option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as stop:
        train(name, tmp_path / "run", f"--{option}={value}")
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    (error,) = [line for line in lines if line.startswith("error:")]
    assert option.rsplit(".", 1)[-1].removeprefix("mixture.") in error
    assert not (tmp_path / "run/last.ckpt").exists()
