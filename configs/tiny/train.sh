#!/usr/bin/env bash
# From nothing to a whole model at the tests' scale, in a minute or two; it makes noise.
#   RUN=runs/tiny    where everything goes; the model is RUN/model
set -euo pipefail
RUN="${RUN:-runs/tiny}"
CONFIG=configs/tiny
source "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"

train vae
train clap
once latents python -m data.latents --model "$RUN/vae/export" --out "$RUN/latents" --clips 12 --validation_clips 4
train diffusion --vae "$RUN/vae/export" --text_encoder "$RUN/clap/export" --data.latents "$RUN/latents"
once model publish
