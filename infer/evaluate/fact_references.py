"""Which of several words fits a sound: a linear classifier in closed form, from real clips of each word.

The features are statistics of a mel spectrogram (`infer.embedders.mel`), so any sound can be judged.

audio (channels, samples), 44,100 Hz; features (num_features,) float64.

Source: linear discriminant analysis with a shrunken covariance (Friedman 1989).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from infer.metrics.facts import spectral_centroid_hz


def centroid_feature(audio: Tensor) -> Tensor:
    """Log of the spectral centroid in Hz: (1,)."""
    return torch.tensor([max(spectral_centroid_hz(audio), 1.0)], dtype=torch.float64).log()


class WordClassifier:
    """Linear discriminant analysis between words.

    Args:
        examples: of each word, the features of some sounds.
        shrinkage: share, 0 to 1, of the covariance's off-diagonal that is dropped; much where clips are few.
    """

    def __init__(self, examples: Mapping[str, Sequence[Tensor]], shrinkage: float) -> None:
        self.words = list(examples)
        described = [torch.stack(list(rows)) for rows in examples.values()]  # (examples, features) each
        means = torch.stack([rows.mean(dim=0) for rows in described])  # (words, features)
        residual = torch.cat([rows - mean for rows, mean in zip(described, means, strict=True)])
        covariance = residual.T @ residual / len(residual)
        diagonal = torch.diag(covariance.diagonal())
        covariance = (1 - shrinkage) * covariance + shrinkage * diagonal + 1e-4 * torch.eye(len(covariance))
        self._weights = torch.linalg.solve(covariance, means.T)  # (features, words)
        self._offsets = -0.5 * (means.T * self._weights).sum(dim=0)

    def __call__(self, features: Tensor) -> str:
        """Return the word that fits a sound's features best."""
        return self.words[int((features @ self._weights + self._offsets).argmax())]
