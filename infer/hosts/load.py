"""One way to a model that can be played: a folder of this project, a published pipeline, or a name on the hub."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from infer.hosts.audioldm import AudioLDM
from infer.hosts.audioldm2 import AudioLDM2
from infer.hosts.host import Host
from infer.hosts.pipelines import is_pipeline, locate_pipeline, pipeline_class
from infer.hosts.stable_audio import StableAudioOpen
from infer.hosts.voiceldm import VoiceLDM, is_voiceldm
from models.device import Precision
from models.errors import UserError
from models.text_to_audio import TextToAudio

logger = logging.getLogger(__name__)

HOST_CONFIGS = Path(__file__).parents[2] / "configs/hosts"
CONFIG_NAMES = {
    AudioLDM: "audioldm.yaml",
    AudioLDM2: "audioldm2.yaml",
    StableAudioOpen: "stable_audio_open.yaml",
    VoiceLDM: "voiceldm.yaml",
}
"""Settings of `infer.fifo` for each kind of published model."""

PIPELINES = {
    "AudioLDMPipeline": AudioLDM,
    "AudioLDM2Pipeline": AudioLDM2,
    "StableAudioPipeline": StableAudioOpen,
}
"""Adapters by the class that a pipeline's index names."""


def load_model(
    source: str | Path, device: torch.device, precision: Precision = "float32", compile: bool = False
) -> Host:
    """Load a model and say in one line what it is, if it is not one of this project.

    Args:
        precision: number format in which the denoiser computes.
        compile: whether the denoiser is compiled.

    Raises:
        UserError: there is no model, none that can be played, or a part of it is missing or damaged.
    """
    adapter = host_class(source)
    if adapter is None:
        model = TextToAudio.load(source, device)
        model.prepare(precision, compile)
        return model
    folder = Path(source) if adapter is VoiceLDM else locate_pipeline(source)
    host = adapter.load(folder)
    host.to(device)
    host.prepare(precision, compile)
    logger.info("%s: %s", source, describe(host))
    return host


def host_class(source: str | Path) -> type[AudioLDM | AudioLDM2 | StableAudioOpen | VoiceLDM] | None:
    """Return the adapter of a published model; None for a folder of this project.

    Raises:
        UserError: a pipeline of a kind that cannot be played.
    """
    if Path(source).is_dir() and is_voiceldm(Path(source)):
        return VoiceLDM
    if not is_pipeline(source):
        return None
    name = pipeline_class(locate_pipeline(source))
    if name not in PIPELINES:
        raise UserError(f"{source} is a {name}, which cannot be played: expected one of {', '.join(PIPELINES)}")
    return PIPELINES[name]


def default_config(arguments: Sequence[str]) -> Path | None:
    """Return the settings that a published model is played with, for the `--model` of a command line; None: no such.

    A model that cannot be found is judged later, where it is loaded.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", default="")
    parser.add_argument("--resume_state")
    given = parser.parse_known_args(list(arguments))[0]
    source = "" if given.resume_state else given.model  # a saved stream keeps its own settings
    try:
        adapter = host_class(source) if source else None
    except UserError:
        return None
    return None if adapter is None else HOST_CONFIGS / CONFIG_NAMES[adapter]


def describe(host: AudioLDM | AudioLDM2 | StableAudioOpen | VoiceLDM) -> str:
    """Say what a published model is: its kind, the size of its network, frames a second, trained window."""
    network: nn.Module = host.transformer if isinstance(host, StableAudioOpen) else host.unet
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    rate = host.sample_rate / host.hop_length
    seconds = host.window_frames / rate
    return (
        f"{type(host).__name__}, a denoiser of {millions:.0f} M parameters, {rate:.4g} latent frames a second, "
        f"trained on clips of {seconds:.4g} s"
    )
