"""Published autoencoders: converted, they encode and decode as their own classes do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.checkpoint import load_weights
from models.convert import (
    convert,
    dac_names,
    diffusers_names,
    fold_weight_norm,
    main,
    oobleck_config,
    rename,
    tools_names,
)
from models.errors import UserError
from models.streaming import StreamingDecoder
from models.vae import VAE, VAEConfig
from models.vae_waveform import Snake, SnakeBeta, WaveformConfig

SIZES = {
    "encoder_hidden_size": 8,
    "downsampling_ratios": [2, 4],
    "channel_multiples": [1, 2],
    "decoder_channels": 8,
    "decoder_input_channels": 4,
    "audio_channels": 2,
    "sampling_rate": 44_100,
}
REAL = {
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 8, 8],
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
}


def peer(**sizes: Any) -> Any:
    module = pytest.importorskip("diffusers.models.autoencoders.autoencoder_oobleck")
    torch.manual_seed(0)
    theirs = module.AutoencoderOobleck(**(SIZES | sizes))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith(("alpha", "beta")):
                parameter.normal_(0, 0.2)
    return theirs.eval()


@pytest.fixture
def oobleck(tmp_path: Path) -> tuple[Any, Path]:
    theirs = peer()
    theirs.save_pretrained(tmp_path / "theirs/vae")
    return theirs, tmp_path / "theirs"


def assert_the_same(vae: VAE, theirs: Any, scale: float = 1.0) -> None:
    audio = 0.3 * torch.randn(2, 2, 9 * vae.hop_length)
    with torch.no_grad():
        posterior = theirs.encode(audio).latent_dist
        torch.testing.assert_close(vae.posterior(audio).mean * scale, posterior.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(vae.posterior(audio).std * scale, posterior.std, rtol=1e-4, atol=1e-5)
        decoded = theirs.decode(posterior.mean).sample
        torch.testing.assert_close(vae.decode(posterior.mean / scale), decoded, rtol=1e-4, atol=1e-5)


@pytest.mark.parity
def test_diffusers_oobleck_is_converted(oobleck: tuple[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    theirs, folder = oobleck
    main([str(folder), str(tmp_path / "ours")])
    assert "hop 8 samples at 44100 Hz, 4 latent channels, none left over" in capsys.readouterr().out
    vae = VAE.load(tmp_path / "ours")
    assert_the_same(vae, theirs)
    latents = torch.randn(1, 4, 20)
    stream = StreamingDecoder(vae)
    pieces = [*(stream.push(piece) for piece in latents.split(3, dim=-1)), stream.finish()]
    torch.testing.assert_close(torch.cat(pieces, dim=-1), vae.decode(latents), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="holds a model already"):
        main([str(folder), str(tmp_path / "ours")])


@pytest.mark.parity
def test_the_real_sizes_of_stable_audio_open_fit_key_for_key():
    with torch.device("meta"):
        theirs = peer(**REAL).state_dict()
    widths = [128 * multiple for multiple in (1, 1, 2, 4, 8, 16)]
    sizes = {"audio_channels": 2, "latent_channels": 64, "sample_rate": 44_100}
    config = oobleck_config((2, 4, 4, 8, 8), widths, widths, tanh=False, **sizes)
    assert config.hop_length == 2048
    folded = {key: value.shape for key, value in fold_weight_norm(theirs).items()}
    with torch.device("meta"):
        ours = VAE(config).state_dict()
    renamed = rename(
        {key: torch.empty(shape, device="meta") for key, shape in folded.items()}, diffusers_names(5), True
    )
    shapes = {key: value.shape for key, value in renamed.items()}
    assert shapes == {key: value.shape for key, value in ours.items() if not key.startswith("latent_")}
    assert sum(value.numel() for value in renamed.values()) == pytest.approx(156.1e6, rel=1e-3)


def as_tools(theirs: Any) -> dict[str, Tensor]:
    """Rename diffusers' tensors to stable-audio-tools' names, by way of ours."""
    back = dict(diffusers_names(2))
    state = {}
    for ours, tools in tools_names(2):
        for leaf in ("weight", "bias", "alpha", "beta", "weight_g", "weight_v"):
            value = theirs.state_dict().get(f"{back[ours]}.{leaf}")
            if value is not None:
                state[f"{tools}.{leaf}"] = (value.flatten() if leaf in ("alpha", "beta") else value).clone()
    assert len(state) == len(theirs.state_dict())
    return state


def tools_config(**changes: Any) -> dict[str, Any]:
    side = {"channels": 8, "c_mults": [1, 2], "strides": [2, 4], "latent_dim": 4, "use_snake": True}
    return {
        "sample_rate": 44_100,
        "model": {
            "encoder": {"type": "oobleck", "config": side | {"latent_dim": 8}},
            "decoder": {"type": "oobleck", "config": side | {"final_tanh": False} | changes},
            "bottleneck": {"type": "vae"},
            "latent_dim": 4,
            "io_channels": 2,
        },
    }


@pytest.mark.parity
@pytest.mark.parametrize("prefix", ["", "pretransform.model.", "autoencoder.", "autoencoder_ema.ema_model."])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_stable_audio_tools_checkpoints_are_converted(tmp_path: Path, prefix: str, suffix: str):
    theirs = peer()
    state = {prefix + key: value for key, value in as_tools(theirs).items()} | {"other.weight": torch.zeros(3)}
    if prefix == "autoencoder_ema.ema_model.":  # the averaged weights are preferred
        state |= {key.replace(prefix, "autoencoder."): torch.zeros_like(value) for key, value in state.items()}
    if suffix == ".ckpt":
        torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    else:
        save_file(state, tmp_path / "model.safetensors")
    config = tools_config()
    if prefix == "pretransform.model.":
        pretransform = {"type": "autoencoder", "scale": 2.0, "config": config["model"]}
        config = {"sample_rate": 44_100, "model": {"pretransform": pretransform}}
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    vae, report = convert(str(tmp_path))
    assert report.startswith('stable-audio-tools\' "oobleck"')
    assert_the_same(vae, theirs, scale=2.0 if prefix == "pretransform.model." else 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_snake": False}, "use_snake False is not supported"),
        ({"antialias_activation": True}, "antialias_activation True is not supported"),
        ({"use_nearest_upsample": True}, "use_nearest_upsample True is not supported"),
        ({"strides": [4, 2]}, "strides of encoder and decoder differ"),
    ],
)
def test_options_that_are_not_supported_are_named(tmp_path: Path, changes: dict[str, Any], message: str):
    save_file({"encoder.layers.0.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "model_config.json").write_text(json.dumps(tools_config(**changes)))
    with pytest.raises(UserError, match=message):
        convert(str(tmp_path))


def test_a_damaged_configuration_is_one_line(tmp_path: Path):
    save_file({"encoder.layers.0.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    whole = tools_config()
    for key in ("encoder", "decoder", "bottleneck", "latent_dim", "io_channels"):
        for broken in (None, 3, "x", [], {}):
            given = whole | {"model": whole["model"] | {key: broken}}
            (tmp_path / "model_config.json").write_text(json.dumps(given))
            with pytest.raises(UserError) as caught:
                convert(str(tmp_path))
            assert str(tmp_path) in str(caught.value)
            assert "\n" not in str(caught.value)


def dac_state(vae: VAE, encoder: str, decoder: str) -> dict[str, Tensor]:
    """The tensors of one of our own autoencoders under the names of the Descript Audio Codec."""
    assert vae.config.waveform.projection is False or encoder != "encoder"
    levels = len(vae.config.waveform.encoder_strides)
    names = dict(dac_names(levels, levels, encoder, decoder)) | {f"encoder.{5 * levels + 3}": "encoder.proj_out"}
    state = {}
    for key, value in vae.state_dict().items():
        if not key.startswith("latent_"):
            ours, leaf = key.rsplit(".", 1)
            state[f"{names[ours]}.{leaf}"] = value.clone()
    return state


def our_dac(projection: bool, latent_channels: int, audio_channels: int) -> VAE:
    layers = WaveformConfig(
        encoder_width=4, encoder_strides=(2, 4), decoder_width=16, decoder_strides=(4, 2), projection=projection
    )
    torch.manual_seed(0)
    return VAE(VAEConfig(audio_channels=audio_channels, latent_channels=latent_channels, waveform=layers)).eval()


def test_the_dac_autoencoder_of_stable_audio_1_is_the_papers(tmp_path: Path):
    ours = our_dac(True, 3, 2)
    save_file(dac_state(ours, "encoder.encoder", "decoder.decoder"), tmp_path / "model.safetensors")
    model = {
        "encoder": {"type": "dac", "config": {"in_channels": 2, "latent_dim": 6, "d_model": 4, "strides": [2, 4]}},
        "decoder": {"type": "dac", "config": {"out_channels": 2, "latent_dim": 3, "channels": 16, "rates": [4, 2]}},
        "bottleneck": {"type": "vae"},
        "latent_dim": 3,
        "io_channels": 2,
    }
    (tmp_path / "model_config.json").write_text(json.dumps({"sample_rate": 44_100, "model": model}))
    vae, _ = convert(str(tmp_path))
    assert vae.config == ours.config
    audio = torch.randn(1, 2, 80)
    assert torch.equal(vae.encode(audio), ours.encode(audio))


def test_descripts_codec_gives_its_means(tmp_path: Path):
    """Its encoder has no scale: the standard deviation becomes the smallest there is."""
    ours = our_dac(False, 3, 1)
    state = dac_state(ours, "encoder", "decoder")
    last = max(key for key in state if key.startswith("encoder.block.4"))
    state |= {key: state[key][:3].clone() for key in ("encoder.block.4.weight", "encoder.block.4.bias")}
    assert last in state
    torch.save({"state_dict": state | {"quantizer.x": torch.zeros(1)}}, tmp_path / "weights.pth")
    vae, report = convert(str(tmp_path / "weights.pth"))
    assert report.startswith("descript-audio-codec without its quantiser")
    audio = torch.randn(1, 1, 80)
    torch.testing.assert_close(vae.encode(audio), ours.encode(audio))
    assert vae.posterior(audio).std.max() < 2e-4


def test_what_is_left_over_or_not_safe_is_refused(tmp_path: Path):
    state = dac_state(our_dac(False, 3, 1), "encoder", "decoder")
    torch.save({"state_dict": state | {"encoder.block.9.x": torch.zeros(1)}}, tmp_path / "more.pth")
    with pytest.raises(UserError, match=r"1 tensors have no place in the autoencoder: encoder.block.9.x"):
        convert(str(tmp_path / "more.pth"))
    torch.save({"state_dict": nn.Linear(1, 1)}, tmp_path / "code.pth")
    with pytest.raises(UserError, match=r"no pickle of tensors alone .* nothing of it was run"):
        convert(str(tmp_path / "code.pth"))
    with pytest.raises(UserError, match="no file, folder or hub name"):
        convert(str(tmp_path / "nothing.pth"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"neither a config\.json of AutoencoderOobleck nor"):
        convert(str(tmp_path))


def test_the_snake_with_two_parameters_is_the_plain_one_when_they_are_equal():
    plain, both, x = Snake(3), SnakeBeta(3), torch.randn(2, 3, 50)
    with torch.no_grad():
        plain.alpha.uniform_(0.5, 2)
    load_weights(both, {"alpha": plain.alpha.detach(), "beta": plain.alpha.detach()}, "here")
    torch.testing.assert_close(both(x), plain(x))
    assert both.beta.shape == (1, 3, 1)
