"""What training needs for autoencoders of kind "spectral" alone: a stage for the tones, a start from components.

Stages: first the tone path learns by itself, from measured and from drawn tones, without any reconstruction; then
encoder and decoder train on reconstruction, from principal components of the training set's log spectra, and the tone
path goes on learning from its teacher beside it; what comes then is `VAETraining`'s: the encoder frozen, the
discriminator for the decoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from models.errors import UserError, check_bounds
from models.spectral_transform import short_time_power
from models.tones import FAINTEST_TONE, NUM_TONES, split_tones, tone_hz
from models.vae import VAE, Posterior
from models.vae_spectral import SpectralDecoder, SpectralEncoder, start_from_components
from train.optimisation import cosine_rate
from train.tones import drawn_tones, tone_losses
from train.trainer import step_generator
from train.vae_training import VAETraining
