"""Convert published autoencoders to a checkpoint of this project: `python -m models.convert SOURCE OUT`.

    diffusers             a folder with an AutoencoderOobleck, or its parent with `vae/`, or either's name on the hub
    stable-audio-tools    a folder with `model_config.json`, or a weight file and its --config: whole models,
                          exported autoencoders and training checkpoints; autoencoders of type "oobleck" and "dac"
    descript-audio-codec  a weight file; its encoder and decoder without the quantiser

Every tensor is accounted for: what is missing, left over, or of another shape is an error, as is every option that the
waveform kind of autoencoder does not have. Latents are not normalised by it: that needs `data.latent_statistics`.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.checkpoint import load_weights, without_weights
from models.errors import UserError
from models.huggingface import is_hub_name
from models.saved_config import building, read_json
from models.vae import VAE, VAEConfig
from models.vae_waveform import WaveformConfig

DIFFUSERS_CLASS = "AutoencoderOobleck"
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
TOOLS_CONFIG = "model_config.json"
PREFIXES = ("pretransform.model.", "autoencoder_ema.ema_model.", "autoencoder.", "")
"""Where stable-audio-tools keeps the autoencoder's weights, the averaged ones before the others."""
SUPPORTED = {"use_snake": True, "antialias_activation": False, "use_nearest_upsample": False}
"""Options of stable-audio-tools' "oobleck", False where they are not given, and the value that is supported."""
QUIET = -20.0
"""Bias before the softplus of the standard deviation of an encoder that has none."""
UNIT = ("snake1", "conv1", "snake2", "conv2")
"""Layers of a residual unit of diffusers."""
Names = list[tuple[str, str]]
"""Modules: ours and theirs."""


@dataclass(frozen=True)
class Source:
    """An autoencoder of somebody else, read."""

    layout: str
    config: VAEConfig
    tensors: Mapping[str, Tensor]
    names: Names
    logarithms: bool
    """Whether the Snakes' parameters are stored as logarithms."""
    scale: float = 1.0
    """What the raw latents are divided by before a diffusion model sees them."""


def convert(source: str, config: Path | None = None) -> tuple[VAE, str]:
    """Read a published autoencoder; returns it and a report of one line.

    Raises:
        UserError: it is none that is known, has an option that is not supported, or does not fit its configuration.
    """
    with building(source):
        found = read_source(source, config)
    state = rename(fold_weight_norm(found.tensors), found.names, found.logarithms)
    with building(source), without_weights():
        vae = VAE(found.config)
    expected = vae.state_dict()
    projection = max(int(key.split(".")[1]) for key in expected if key.startswith("encoder."))
    weight, bias = (f"encoder.{projection}.{leaf}" for leaf in ("weight", "bias"))
    if weight in state and 2 * len(state[weight]) == len(expected[weight]):  # means alone: descript's codec
        state[weight] = torch.cat([state[weight], torch.zeros_like(state[weight])])
        state[bias] = torch.cat([state[bias], torch.full_like(state[bias], QUIET)])
    channels = found.config.latent_channels
    state |= {"latent_mean": torch.zeros(channels, 1), "latent_std": torch.full((channels, 1), found.scale)}
    load_weights(vae, {key: value.float() for key, value in state.items()}, source)
    millions = sum(value.numel() for value in state.values()) / 1e6
    report = (
        f"{found.layout}: {len(found.tensors)} tensors became {len(state)}, {millions:.1f} M parameters, "
        f"hop {vae.hop_length} samples at {found.config.sample_rate} Hz, {channels} latent channels, none left over"
    )
    return vae.eval().requires_grad_(False), report


def read_source(source: str, config: Path | None) -> Source:
    """Find out what a source is, and read its configuration and its tensors."""
    path = Path(source)
    if is_hub_name(source):
        path = _fetch(source)
    if path.is_dir():
        for folder in (path, path / "vae"):
            description = folder / "config.json"
            if description.is_file() and read_json(description).get("_class_name") == DIFFUSERS_CLASS:
                return _diffusers(read_json(description), read_weights(folder / DIFFUSERS_WEIGHTS))
        if (path / TOOLS_CONFIG).is_file():
            files = [path / name for name in ("model.safetensors", "model.ckpt") if (path / name).is_file()]
            if not files:
                raise UserError(f"{path} has no model.safetensors or model.ckpt beside {TOOLS_CONFIG}")
            return _stable_audio_tools(read_json(path / TOOLS_CONFIG), read_weights(files[0]))
        raise UserError(f"{path} has neither a config.json of {DIFFUSERS_CLASS} nor a {TOOLS_CONFIG}")
    if not path.is_file():
        raise UserError(f"no file, folder or hub name {source}")
    if config is not None:
        return _stable_audio_tools(read_json(config), read_weights(path))
    return _descript(read_weights(path), source)


def _diffusers(given: dict[str, Any], tensors: dict[str, Tensor]) -> Source:
    strides = tuple(_known(given, "downsampling_ratios"))
    multiples = [1, *_known(given, "channel_multiples")]
    config = oobleck_config(
        strides,
        [multiple * _known(given, "encoder_hidden_size") for multiple in multiples],
        [multiple * _known(given, "decoder_channels") for multiple in multiples],
        audio_channels=_known(given, "audio_channels"),
        latent_channels=_known(given, "decoder_input_channels"),
        sample_rate=_known(given, "sampling_rate"),
        tanh=False,
    )
    return Source("diffusers' AutoencoderOobleck", config, tensors, diffusers_names(len(strides)), logarithms=True)


def _stable_audio_tools(given: dict[str, Any], tensors: dict[str, Tensor]) -> Source:
    model = _known(given, "model")
    pretransform = model.get("pretransform", {"config": model})
    autoencoder = _known(pretransform, "config")
    bottleneck = _known(_known(autoencoder, "bottleneck"), "type")
    if bottleneck != "vae":
        raise UserError(f'bottleneck of type {bottleneck!r} is not supported, only "vae"')
    sides = [_known(autoencoder, side) for side in ("encoder", "decoder")]
    types = {_known(side, "type") for side in sides}
    encoder, decoder = (_known(side, "config") for side in sides)
    rate, channels = _known(given, "sample_rate"), _known(autoencoder, "io_channels")
    latents, scale = _known(autoencoder, "latent_dim"), float(pretransform.get("scale", 1.0))
    part = _autoencoder_of(tensors)
    down = _known(encoder, "strides")
    if types == {"dac"}:
        up = _known(decoder, "rates")
        config = _dac_config(_known(encoder, "d_model"), down, _known(decoder, "channels"), up)
        names = dac_names(len(down), len(up), "encoder.encoder", "decoder.decoder")
        names.append((f"encoder.{5 * len(down) + 3}", "encoder.proj_out"))
        whole = VAEConfig(sample_rate=rate, audio_channels=channels, latent_channels=latents, waveform=config)
        return Source('stable-audio-tools\' "dac"', whole, part, names, logarithms=False, scale=scale)
    if types != {"oobleck"}:
        raise UserError(f"encoder and decoder of types {sorted(types)} are not supported, only oobleck and dac")
    for side in (encoder, decoder):
        for option, supported in SUPPORTED.items():
            if side.get(option, False) is not supported:
                raise UserError(f"{option} {side.get(option, False)} is not supported, only {supported}")
    if down != _known(decoder, "strides"):
        raise UserError(f"strides of encoder and decoder differ: {down} and {decoder['strides']}")
    config = oobleck_config(
        tuple(down),
        [multiple * _known(encoder, "channels") for multiple in [1, *_known(encoder, "c_mults")]],
        [multiple * _known(decoder, "channels") for multiple in [1, *_known(decoder, "c_mults")]],
        audio_channels=channels,
        latent_channels=latents,
        sample_rate=rate,
        tanh=decoder.get("final_tanh", True),
    )
    return Source('stable-audio-tools\' "oobleck"', config, part, tools_names(len(down)), logarithms=True, scale=scale)


def _descript(tensors: dict[str, Tensor], source: str) -> Source:
    """descript-audio-codec: sizes are read off the tensors."""
    kept = {key: value for key, value in tensors.items() if key.startswith(("encoder.block.", "decoder.model."))}
    folded = fold_weight_norm(kept)
    if "encoder.block.0.weight" not in folded or "decoder.model.0.weight" not in folded:
        raise UserError(f"{source} is no weight file of descript-audio-codec; one of stable-audio-tools needs --config")
    rates = tensors.get("sample_rate", 44_100)
    down = [folded[key].shape[-1] // 2 for key in _numbered(folded, "encoder.block.{}.block.4.weight")]
    up = [folded[key].shape[-1] // 2 for key in _numbered(folded, "decoder.model.{}.block.1.weight")]
    widths = folded["encoder.block.0.weight"].shape, folded["decoder.model.0.weight"].shape
    config = _dac_config(widths[0][0], down, widths[1][0], up, projection=False)
    whole = VAEConfig(
        sample_rate=int(rates), audio_channels=widths[0][1], latent_channels=widths[1][1], waveform=config
    )
    names = dac_names(len(down), len(up), "encoder", "decoder")
    return Source("descript-audio-codec without its quantiser", whole, kept, names, logarithms=False)


def oobleck_config(
    strides: tuple[int, ...], encoder: list[int], decoder: list[int], *, tanh: bool, **sizes: int
) -> VAEConfig:
    """Sizes from the widths around every level, outermost first."""
    layers = WaveformConfig(
        encoder_width=encoder[0],
        encoder_widths=tuple(encoder[1:]),
        encoder_strides=strides,
        decoder_width=decoder[-1],
        decoder_widths=tuple(decoder[-2::-1]),
        decoder_strides=strides[::-1],
        snake="alpha_beta",
        projection=False,
        output_bias=False,
        tanh=tanh,
    )
    return VAEConfig(waveform=layers, **sizes)  # pyright: ignore[reportArgumentType]


def _dac_config(
    encoder_width: int, down: list[int], decoder_width: int, up: list[int], projection: bool = True
) -> WaveformConfig:
    return WaveformConfig(
        encoder_width=encoder_width,
        encoder_strides=tuple(down),
        decoder_width=decoder_width,
        decoder_strides=tuple(up),
        projection=projection,
    )


def diffusers_names(num_levels: int) -> Names:
    """Modules of diffusers' AutoencoderOobleck."""
    names = [("encoder.0", "encoder.conv1"), ("decoder.0", "decoder.conv1")]
    for level in range(num_levels):
        ours, theirs = 1 + 5 * level, f"encoder.block.{level}"
        for unit in range(3):
            names += _unit(f"encoder.{ours + unit}", f"{theirs}.res_unit{unit + 1}", UNIT)
        names += [(f"encoder.{ours + 3}", f"{theirs}.snake1"), (f"encoder.{ours + 4}", f"{theirs}.conv1")]
        theirs = f"decoder.block.{level}"
        names += [(f"decoder.{ours}", f"{theirs}.snake1"), (f"decoder.{ours + 1}", f"{theirs}.conv_t1")]
        for unit in range(3):
            names += _unit(f"decoder.{ours + 2 + unit}", f"{theirs}.res_unit{unit + 1}", UNIT)
    end = 5 * num_levels + 1
    for side in ("encoder", "decoder"):
        names += [(f"{side}.{end}", f"{side}.snake1"), (f"{side}.{end + 1}", f"{side}.conv2")]
    return names


def tools_names(num_levels: int) -> Names:
    """Modules of stable-audio-tools' Oobleck."""
    return _numbered_names((num_levels, num_levels), ("encoder.layers", "decoder.layers"), "layers")


def dac_names(num_down: int, num_up: int, encoder: str, decoder: str) -> Names:
    """Modules of the Descript Audio Codec's encoder and decoder."""
    return _numbered_names((num_down, num_up), (f"{encoder}.block", f"{decoder}.model"), "block")


def _numbered_names(num_levels: tuple[int, int], sides: tuple[str, str], inner: str) -> Names:
    """Modules of networks whose levels and layers are numbered as ours, but nested."""
    names: Names = []
    for side, theirs, count in zip(("encoder", "decoder"), sides, num_levels, strict=True):
        names.append((f"{side}.0", f"{theirs}.0"))
        for level in range(count):
            for layer in range(5):
                ours, peer = f"{side}.{1 + 5 * level + layer}", f"{theirs}.{level + 1}.{inner}.{layer}"
                is_unit = layer < 3 if side == "encoder" else layer > 1
                names += _unit(ours, peer, tuple(f"{inner}.{i}" for i in range(4))) if is_unit else [(ours, peer)]
        names += [(f"{side}.{5 * count + i}", f"{theirs}.{count + i}") for i in (1, 2)]
    return names


def _unit(ours: str, theirs: str, layers: tuple[str, ...]) -> Names:
    return [(f"{ours}.block.{index}", f"{theirs}.{layer}") for index, layer in enumerate(layers)]


def rename(state: Mapping[str, Tensor], names: Names, logarithms: bool) -> dict[str, Tensor]:
    """Give tensors our names, and Snakes' parameters our shape (1, channels, 1) and no logarithm.

    Raises:
        UserError: tensors are left over.
    """
    renamed, used = {}, set()
    for ours, theirs in names:
        for leaf in ("weight", "bias", "alpha", "beta"):
            value = state.get(f"{theirs}.{leaf}")
            if value is None:
                continue
            used.add(f"{theirs}.{leaf}")
            if leaf in ("alpha", "beta"):
                value = (value.double().exp() if logarithms else value).float().reshape(1, -1, 1)
            renamed[f"{ours}.{leaf}"] = value
    left = sorted(state.keys() - used)
    if left:
        raise UserError(f"{len(left)} tensors have no place in the autoencoder: {', '.join(left[:5])}")
    return renamed


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold weight norm, in either of PyTorch's namings: g v / |v|, the norm over all but the first dimension."""
    folded = {}
    namings = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
    for key, value in state.items():
        for gain, direction in namings:
            if key.endswith(f".{direction}"):
                stem = key.removesuffix(direction)
                norm = value.double().flatten(1).norm(dim=1).view(-1, *[1] * (value.ndim - 1))
                folded[f"{stem}weight"] = (state[stem + gain].double() * value.double() / norm).float()
                break
            if key.endswith(f".{gain}"):
                break
        else:
            folded[key] = value
    return folded


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a weight file of any size: safetensors, or a pickle of which nothing is run.

    Raises:
        UserError: it is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                keys = [key for key in file.keys() if _is_of_autoencoder(key)]  # noqa: SIM118 - no mapping
                return {key: file.get_tensor(key) for key in keys}
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no valid weight file ({str(error).splitlines()[0]})") from None
    except Exception as error:  # noqa: BLE001 - pickle raises anything
        raise UserError(
            f"{path} is no pickle of tensors alone ({type(error).__name__}), nothing of it was run"
        ) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {key: value for key, value in state.items() if isinstance(value, Tensor) and _is_of_autoencoder(key)}


def _is_of_autoencoder(key: str) -> bool:
    return any(key.startswith((f"{prefix}encoder.", f"{prefix}decoder.")) for prefix in PREFIXES)


def _autoencoder_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder's own tensors, without their prefix."""
    for prefix in PREFIXES:
        found = {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith((f"{prefix}encoder.", f"{prefix}decoder."))
        }
        if found:
            return found
    raise UserError("there is no autoencoder in the weight file")


def _numbered(state: Mapping[str, Tensor], pattern: str) -> list[str]:
    """Keys of a pattern with the numbers 1, 2, ... as far as there are any."""
    keys = []
    while pattern.format(len(keys) + 1) in state:
        keys.append(pattern.format(len(keys) + 1))
    return keys


def _known(given: Any, key: str) -> Any:
    if not isinstance(given, dict):
        raise UserError(f"the configuration has {given!r} where {key!r} should be an entry")
    if key not in given:
        raise UserError(f"the configuration has no {key!r}, it has {sorted(given)}")
    return given[key]


def _fetch(name: str) -> Path:
    import huggingface_hub  # half a second, wanted here alone

    patterns = ["config.json", DIFFUSERS_WEIGHTS, "vae/config.json", f"vae/{DIFFUSERS_WEIGHTS}", TOOLS_CONFIG]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # noqa: BLE001 - the hub's client raises anything
        raise UserError(
            f"cannot fetch {name} from the hub ({type(error).__name__}): on a machine with network run "
            f"`hf download {name} --local-dir DIR`, and give that folder instead"
        ) from None


def main(arguments: list[str] | None = None) -> None:
    """Convert an autoencoder."""
    parser = argparse.ArgumentParser(
        "models.convert", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("source", help="folder, weight file, or hub name")
    parser.add_argument("out", type=Path, help="checkpoint folder to write, which must not exist")
    parser.add_argument("--config", type=Path, help="stable-audio-tools' JSON of a weight file")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="format of the weights")
    given = parser.parse_args(arguments)
    if (given.out / "config.json").exists():
        raise UserError(f"{given.out} holds a model already: give another folder")
    vae, report = convert(given.source, given.config)
    vae.save(given.out, getattr(torch, given.dtype))
    sys.stdout.write(f"{report}\nwrote {given.out}; next: python -m data.latent_statistics --model {given.out}\n")


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as problem:
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)
