"""The bundle: conditioning, null sequence, and a folder that gives back the same model."""

import dataclasses
import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.checkpoint import save_config, save_part
from models.clap_text import ClapTextConfig
from models.errors import UserError
from models.queue import QueueConfig
from models.text_encoder import TextEncoder, TextEncoderConfig
from models.text_to_audio import ConditionerConfig, Conditioning, TextToAudio, TextToAudioConfig
from models.timing import TimingConfig
from models.tokenizer import train_tokenizer
from models.unet import UNetConfig
from models.vae import VAE, VAEConfig
from models.vae_waveform import WaveformConfig

WIDTH = 16
UNET = UNetConfig(
    widths=(16, 16),
    factors=(1, 4),
    num_blocks=1,
    attention_depths=(0, 1),
    bottleneck_depth=0,
    num_heads=2,
    context_width=WIDTH,
    time_width=16,
    num_frequencies=4,
)
CONDITIONER = ConditionerConfig(timing=TimingConfig(width=WIDTH, max_seconds=20), num_null_tokens=3)


def build_text_encoder() -> TextEncoder:
    tokenizer = train_tokenizer(["slow warm drums", "bright bell", "rain on a roof"], vocab_size=300)
    clap = ClapTextConfig(
        vocab_size=300, width=WIDTH, num_layers=2, num_heads=2, feed_forward_width=32, num_positions=40
    )
    return TextEncoder(TextEncoderConfig(max_tokens=30, clap=clap), tokenizer)


def build_vae() -> VAE:
    return VAE(VAEConfig(waveform=WaveformConfig(encoder_width=2, decoder_width=16)))


@pytest.fixture(scope="module")
def model() -> TextToAudio:
    torch.manual_seed(0)
    model = TextToAudio(TextToAudioConfig(unet=UNET, conditioner=CONDITIONER), build_vae(), build_text_encoder())
    with torch.no_grad():
        for parameter in model.unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def folder(model: TextToAudio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save(folder, dtype=torch.float32)
    return folder


def test_text_comes_first_then_start_and_total(model: TextToAudio):
    conditioning = model.condition(["slow warm drums", "bell"], seconds_start=1.5, seconds_total=[8.0, None])
    embeddings, mask = model.text_encoder.encode(["slow warm drums", "bell"])
    torch.testing.assert_close(conditioning.context[:, :-2], embeddings)
    assert torch.equal(conditioning.context_mask[:, :-2], mask)
    assert conditioning.context_mask[:, -2:].all()
    timing = model.conditioner.timing(torch.full((2,), 1.5), torch.tensor([8.0, math.nan]))
    torch.testing.assert_close(conditioning.context[:, -2:], timing)


def test_a_prompt_is_the_same_alone_and_in_a_batch(model: TextToAudio):
    together = model.condition(["slow warm drums on a roof", "bell"], 0.0, 4.0)
    alone = model.condition(["bell"], 0.0, 4.0)
    latents, t = torch.randn(2, 64, 8), torch.tensor([0.5, 0.5])
    both = model(latents, t, together)
    torch.testing.assert_close(model(latents[1:], t[1:], alone), both[1:], atol=1e-5, rtol=1e-4)


def test_timing_errors(model: TextToAudio):
    with pytest.raises(ValueError, match="seconds_total must be one value or one for each of 2 prompts"):
        model.condition(["a", "b"], seconds_total=[1.0])
    with pytest.raises(ValueError, match="seconds_total must be 0 to 20 seconds, got 30"):
        model.condition(["a"], seconds_total=30)


def test_guidance_batch_equals_two_passes(model: TextToAudio):
    conditional, null = model.condition(["slow warm drums"], 0.0, 4.0), model.null_condition(1)
    latents, t = torch.randn(1, 64, 8), torch.rand(1, 8)
    both = model(latents.expand(2, -1, -1), t.expand(2, -1), conditional.cat(null))
    for one, expected in zip(both, (model(latents, t, conditional), model(latents, t, null)), strict=True):
        torch.testing.assert_close(one[None], expected, atol=1e-5, rtol=1e-4)


def test_dropped_samples_are_the_null_condition(model: TextToAudio):
    conditioning = model.condition(["bell", "slow warm drums", "rain"], 0.0, 4.0)
    dropped = model.conditioner.drop(conditioning, torch.tensor([False, True, False]))
    null = model.null_condition(1)
    torch.testing.assert_close(dropped.context[1, :3], null.context[0])
    assert dropped.context_mask[1].sum() == 3
    for index in (0, 2):
        assert torch.equal(dropped.context[index, : conditioning.context.shape[1]], conditioning.context[index])
    dropped.context.sum().backward()
    gradient = model.conditioner.null_sequence.grad
    assert gradient is not None
    torch.testing.assert_close(gradient, torch.ones_like(gradient))
    model.zero_grad()


def test_expand_and_slices():
    conditioning = Conditioning(torch.randn(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))
    assert conditioning.expand(5).context.shape == (5, 3, 4)
    assert len(conditioning.expand(5)[1:3]) == 2
    with pytest.raises(ValueError, match="can only expand a batch of 1, got 5"):
        conditioning.expand(5).expand(2)


def test_a_saved_folder_gives_the_same_model(model: TextToAudio, folder: Path):
    loaded = TextToAudio.load(folder)
    assert not loaded.training
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, msg=name)
    latents, t = torch.randn(2, 64, 8), torch.rand(2, 8)
    prompts = ["slow warm drums", "bell"]
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(latents, t, loaded.condition(prompts, 0.0, 4.0)),
            model(latents, t, model.condition(prompts, 0.0, 4.0)),
        )
        torch.testing.assert_close(loaded.vae.decode(latents), model.vae.decode(latents))
    trained = {name.split(".")[0] for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert trained == {"unet", "conditioner"}


def test_the_queues_travel_in_the_folder(model: TextToAudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    queues = (QueueConfig(context_frames=8, chunk_frames=6, num_chunks=4), QueueConfig(num_chunks=2, steps_per_shift=5))
    config = dataclasses.replace(model.config, queues=queues, window_frames=100, known_seconds=3)
    monkeypatch.setattr(model, "config", config)
    model.save(tmp_path)
    assert TextToAudio.load(tmp_path).config == config
    with pytest.raises(UserError, match="at least one queue"):
        TextToAudioConfig(queues=())


def test_a_folder_without_a_queue_gets_the_default_and_a_warning(
    model: TextToAudio, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model.save(tmp_path)
    save_config(tmp_path, "training", {"window_frames": 100, "known_seconds": None})
    with caplog.at_level(logging.WARNING):
        assert TextToAudio.load(tmp_path).config.queues == (QueueConfig(),)
    (message,) = caplog.messages
    assert "does not say which queue" in message
    assert "\n" not in message


def test_a_mono_autoencoder_takes_and_gives_stereo():
    vae = VAE(VAEConfig(audio_channels=1, waveform=WaveformConfig(encoder_width=2, decoder_width=16))).eval()
    config = TextToAudioConfig(unet=UNET, conditioner=CONDITIONER)
    mono, audio = TextToAudio(config, vae, build_text_encoder()), torch.randn(1, 2, 2048)
    with torch.no_grad():
        latents = mono.encode(audio)
        assert torch.equal(latents, vae.encode(audio.mean(dim=1, keepdim=True)))
        assert torch.equal(mono.decode(latents), vae.decode(latents).repeat(1, 2, 1))


def test_half_precision_folder_is_near(model: TextToAudio, tmp_path: Path):
    model.save(tmp_path / "half")
    loaded = TextToAudio.load(tmp_path / "half")
    latents, t = torch.randn(1, 64, 8), torch.rand(1, 8)
    with torch.no_grad():
        expected = model(latents, t, model.condition(["bell"]))
        actual = loaded(latents, t, loaded.condition(["bell"]))
    assert (actual - expected).norm() < 0.01 * expected.norm()


def test_loading_draws_no_random_numbers(folder: Path):
    before = torch.get_rng_state()
    TextToAudio.load(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_building_for_a_checkpoint_does_not_import_the_compiler():
    code = (
        "import sys\n"
        "from models.checkpoint import without_weights\n"
        "from models.text_to_audio import Conditioner, ConditionerConfig, UNet, UNetConfig\n"
        "with without_weights(): UNet(UNetConfig()), Conditioner(ConditionerConfig())\n"
        "sys.exit('sympy' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_no_such_folder_lists_what_exists(folder: Path):
    with pytest.raises(FileNotFoundError, match=r"no model in .*demo: .* has tiny"):
        TextToAudio.load(folder.parent / "demo")


def test_a_missing_part_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"vae": {}}))
    with pytest.raises(ValueError, match=r"has no part 'unet', it has \['vae'\]"):
        TextToAudio.load(tmp_path)


def test_weights_that_do_not_fit_are_listed(model: TextToAudio, tmp_path: Path):
    model.save(tmp_path, dtype=torch.float32)
    config = json.loads((tmp_path / "config.json").read_text())["unet"]
    save_part(tmp_path, "unet", config | {"time_width": 24}, model.unet)
    with pytest.raises(ValueError, match=r"\(unet\) do not fit the configuration.*time_mlp.*expected \(24,") as caught:
        TextToAudio.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_widths_must_agree():
    config = TextToAudioConfig(unet=UNET, conditioner=ConditionerConfig(timing=TimingConfig(width=32)))
    with pytest.raises(ValueError, match="widths must be equal, got the text encoder 16, timing 32"):
        TextToAudio(config, build_vae(), build_text_encoder())
