"""OpenL3, a convolutional network trained on whether sound and picture belong together; mel 256, 512 values, music.

Parameters are named as in torchopenl3's weights. windows (batch, 2, 48,000) at 48 kHz: left and right are embedded
apart and joined, 1,024 values. The spectrogram is that of openl3 0.4, which FDopenl3 was published with; torchopenl3
has that of 0.3 (HTK's mel scale, mel of the power, padded on both sides), which moves embeddings by a tenth.

Source: Cramer et al. 2019; preprocessing of FDopenl3: Evans et al. 2024 (1 s windows every 0.5 s, peak -1 dB).

Published weights were not run here: shapes, names and the spectrogram are tested, its numbers are not.
"""

import warnings

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from infer.embedders.embedder import Embedded, Preprocessing

PREPROCESSING = Preprocessing(
    sample_rate=48_000, channels="stereo", peak_db=-1.0, window_seconds=1.0, hop_seconds=0.5, centre=True
)
FFT_SIZE, HOP_SIZE, NUM_MELS = 2048, 242, 256
DYNAMIC_RANGE_DB = 80.0


class OpenL3(nn.Module):
    """Log-mel spectrogram and eight convolutions.

    Args:
        width: of the first convolutions; they double three times. The published width is 64.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = [1, width, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width]
        for index, channels in enumerate(widths, start=1):
            self.add_module(f"batch_normalization_{index}", nn.BatchNorm2d(channels, eps=0.001))
            if index < len(widths):
                self.add_module(f"conv2d_{index}", nn.Conv2d(channels, widths[index], 3, padding=1))
        self.audio_embedding_layer = nn.Conv2d(8 * width, 8 * width, 3, padding=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the lowest bands are narrower than a bin and stay empty, as published
            bank = torchaudio.functional.melscale_fbanks(
                FFT_SIZE // 2 + 1, 0.0, 24_000.0, NUM_MELS, 48_000, norm="slaney", mel_scale="slaney"
            )
        self.register_buffer("bank", bank.T.contiguous(), persistent=False)  # (mels, bins)
        self.register_buffer("window", torch.hann_window(FFT_SIZE), persistent=False)

    def forward(self, windows: Tensor) -> Embedded:
        """Embed windows (batch, channels, 48,000): (batch, channels * 8 width)."""
        batch = len(windows)
        x = self.get_submodule("batch_normalization_1")(self.spectrogram(windows.flatten(0, 1)))
        for index in range(1, 8):
            x = self.get_submodule(f"conv2d_{index}")(x)
            x = F.relu(self.get_submodule(f"batch_normalization_{index + 1}")(x))
            if index in (2, 4, 6):
                x = F.max_pool2d(x, 2)
        x = self.audio_embedding_layer(x)  # (batch * channels, 8 width, 32, 24)
        return Embedded(F.max_pool2d(x, (32, 24)).reshape(batch, -1))

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Mel amplitudes in dB under the loudest one of each window: (batch, 1, mels, 199)."""
        num_frames = -(-audio.shape[-1] // HOP_SIZE)
        padded = F.pad(audio, (0, (num_frames - 1) * HOP_SIZE + FFT_SIZE - audio.shape[-1]))
        spectrum = torch.stft(
            padded, FFT_SIZE, HOP_SIZE, window=self.get_buffer("window"), center=False, return_complex=True
        )
        amplitude = self.get_buffer("bank") @ spectrum.abs()
        level_db = 10 * amplitude.clamp_min(1e-10).log10()
        level_db = level_db - level_db.amax(dim=(1, 2), keepdim=True)
        return level_db.clamp_min(-DYNAMIC_RANGE_DB)[:, None]
