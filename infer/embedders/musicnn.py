"""musicnn, a convolutional network that tags music with 50 tags, trained on human annotations (MagnaTagATune).

Layers are named by what they do; `read_musicnn` finds their weights in the published TensorFlow checkpoint. windows
(batch, 1, samples) at 16 kHz, 3 s each.

Source: Pons & Serra 2019 (1909.06654), section 2; released in the package musicnn 0.1.0 (ISC).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from infer.embedders.embedder import Embedded, Preprocessing
from infer.embedders.tensorflow_bundle import read_variables
from infer.embedders.wheels import PackagedFiles

PREPROCESSING = Preprocessing(
    sample_rate=16_000, window_seconds=3.0, hop_seconds=1.5, least_seconds=3.0, keep_rest=False
)
FFT_SIZE, HOP_SIZE, NUM_MELS, NUM_FRAMES = 512, 256, 96, 187
BATCH_NORM_EPS = 1e-3  # TensorFlow's default

TAGS = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
    "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
    "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man",
    "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello",
    "no voice", "weird", "country", "metal", "female voice", "choral",
)  # fmt: skip
"""What the logits mean, in order."""


class Front(nn.Module):
    """Filters over some frames and bands of a spectrogram, wherever in pitch they fit best."""

    def __init__(self, num_filters: int, num_frames: int, num_bands: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, num_filters, (num_frames, num_bands))
        self.norm = nn.BatchNorm2d(num_filters, eps=BATCH_NORM_EPS)
        self.padding = (0, 0, (num_frames - 1) // 2, num_frames // 2)  # keeps the number of frames

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, frames, mels) to (batch, filters, frames)."""
        return self.norm(F.relu(self.conv(F.pad(x, self.padding)))).amax(dim=3)


class Block(nn.Module):
    """A normalised convolution over 7 frames."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, 7, padding=3)
        self.norm = nn.BatchNorm1d(out_channels, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.relu(self.conv(x)))


class Musicnn(nn.Module):
    """The tagger; its vectors are the layer before the tags.

    Args:
        timbral: filters of each of the two timbral layers.
        temporal: filters of each of the three temporal layers.
        width: of the three blocks between.
        hidden: width of a vector.
    """

    def __init__(
        self, timbral: int = 204, temporal: int = 51, width: int = 64, hidden: int = 200, num_tags: int = len(TAGS)
    ) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm2d(1, eps=BATCH_NORM_EPS)
        self.front = nn.ModuleList(
            [Front(timbral, 7, int(share * NUM_MELS)) for share in (0.4, 0.7)]
            + [Front(temporal, frames, 1) for frames in (128, 64, 32)]
        )
        front_width = 2 * timbral + 3 * temporal
        self.blocks = nn.ModuleList([Block(front_width, width), Block(width, width), Block(width, width)])
        pooled = 2 * (front_width + 3 * width)
        self.pool_norm = nn.BatchNorm1d(pooled, eps=BATCH_NORM_EPS)
        self.hidden = nn.Linear(pooled, hidden)
        self.hidden_norm = nn.BatchNorm1d(hidden, eps=BATCH_NORM_EPS)
        self.tags = nn.Linear(hidden, num_tags)
        bank = torchaudio.functional.melscale_fbanks(
            FFT_SIZE // 2 + 1, 0.0, 8_000.0, NUM_MELS, 16_000, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("bank", bank, persistent=False)  # (bins, mels)
        self.register_buffer("window", torch.hann_window(FFT_SIZE), persistent=False)

    def forward(self, windows: Tensor) -> Embedded:
        """Tag windows (batch, 1, samples)."""
        return self.tag(self.spectrogram(windows[:, 0]))

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Log of mel power: (batch, 187 frames, mels)."""
        spectrum = torch.stft(audio, FFT_SIZE, HOP_SIZE, window=self.get_buffer("window"), return_complex=True)
        power = spectrum.abs().square().transpose(1, 2)[:, :NUM_FRAMES] @ self.get_buffer("bank")
        return (1 + 10_000 * power).log10()

    def tag(self, spectrogram: Tensor) -> Embedded:
        """Tag spectrograms (batch, frames, mels)."""
        x = self.input_norm(spectrogram[:, None])
        features = [torch.cat([layer(x) for layer in self.front], dim=1)]  # (batch, channels, frames)
        for index, block in enumerate(self.blocks):
            new = block(features[-1])
            features.append(new + features[-1] if index else new)
        stacked = torch.cat(features, dim=1)
        pooled = torch.stack([stacked.amax(dim=2), stacked.mean(dim=2)], dim=2).flatten(1)
        vectors = self.hidden_norm(F.relu(self.hidden(self.pool_norm(pooled))))
        return Embedded(vectors, self.tags(vectors))


def read_musicnn(files: PackagedFiles) -> dict[str, Tensor]:
    """Read the published weights from the package."""
    index = files.read("MTT_musicnn/.index")
    return from_tensorflow(read_variables(index, files.read("MTT_musicnn/.data-00000-of-00001")))


def from_tensorflow(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and turn the variables of the checkpoint, which TensorFlow numbered in the order of their making."""
    state = {}
    norms = [
        "input_norm",
        *(f"front.{index}.norm" for index in range(5)),
        *(f"blocks.{index}.norm" for index in range(3)),
    ]
    for index, norm in enumerate([*norms, "pool_norm", "hidden_norm"]):
        source = f"batch_normalization_{index}" if index else "batch_normalization"
        names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
        state |= {f"{norm}.{ours}": variables[f"{source}/{theirs}"] for theirs, ours in names.items()}
        state[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    for index in range(8):
        source = f"conv2d_{index}" if index else "conv2d"
        kernel = variables[f"{source}/kernel"]  # (frames, bands, in, out)
        target = f"front.{index}.conv" if index < 5 else f"blocks.{index - 5}.conv"
        # Later layers see channels where the first ones see bands.
        state[f"{target}.weight"] = kernel.permute(3, 2, 0, 1) if index < 5 else kernel[:, :, 0].permute(2, 1, 0)
        state[f"{target}.bias"] = variables[f"{source}/bias"]
    for source, target in (("dense", "hidden"), ("dense_1", "tags")):
        state[f"{target}.weight"] = variables[f"{source}/kernel"].T
        state[f"{target}.bias"] = variables[f"{source}/bias"]
    return {name: value.contiguous() for name, value in state.items()}
