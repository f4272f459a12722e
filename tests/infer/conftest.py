"""A tiny model with random weights, in a folder as `infer` commands read it."""

from pathlib import Path

import pytest
import torch

from models.clap_text import ClapTextConfig
from models.text_encoder import TextEncoder, TextEncoderConfig
from models.text_to_audio import ConditionerConfig, TextToAudio, TextToAudioConfig
from models.timing import TimingConfig
from models.tokenizer import train_tokenizer
from models.unet import UNetConfig
from models.vae import VAE, VAEConfig
from models.vae_waveform import WaveformConfig

WIDTH = 16


def make_tiny_model() -> TextToAudio:
    """Build all parts; layers that start at zero are filled, so that prompt and noise time have an effect."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = WaveformConfig(encoder_width=2, decoder_width=32, dilations=(1,))
        vae = VAE(VAEConfig(latent_channels=4, waveform=layers))
        tokenizer = train_tokenizer(["heavy rain with distant thunder", "a clock ticks"], vocab_size=300)
        clap = ClapTextConfig(
            vocab_size=tokenizer.get_vocab_size(),
            width=WIDTH,
            num_layers=2,
            num_heads=2,
            feed_forward_width=32,
            num_positions=64,
        )
        text_encoder = TextEncoder(TextEncoderConfig(max_tokens=32, clap=clap), tokenizer)
        unet = UNetConfig(
            latent_channels=4,
            widths=(16, 16),
            factors=(1, 2),
            num_blocks=1,
            attention_depths=(0, 1),
            bottleneck_depth=0,
            num_heads=2,
            context_width=WIDTH,
            time_width=16,
            num_frequencies=8,
            num_groups=4,
        )
        conditioner = ConditionerConfig(timing=TimingConfig(width=WIDTH, max_seconds=64))
        model = TextToAudio(TextToAudioConfig(unet=unet, conditioner=conditioner), vae, text_encoder)
        for parameter in model.unet.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3)
        torch.nn.init.normal_(model.unet.conv_out.weight, std=0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model; tests must not change it."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model().save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> TextToAudio:
    """The tiny model, loaded."""
    return TextToAudio.load(tiny_folder)
