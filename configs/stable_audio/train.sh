#!/usr/bin/env bash
# The paper's scale on one machine of GPUs, from a folder of captioned audio to a whole model. Nobody has run it yet at
# this scale; several machines run every stage by torchrun or SLURM with --trainer.num_nodes (train/README.md).
#   DATA=folder                 captioned audio, or a manifest (data/README.md)
#   RUN=runs/stable_audio       where everything goes; the model is RUN/model
#   GPUS=8                      devices of this machine
#   CONFIG=configs/stable_audio another folder of vae.yaml, clap.yaml and diffusion.yaml
set -euo pipefail
if [ ! -e "${DATA:-}" ]; then echo "error: give a folder or manifest of captioned audio, as DATA=folder" >&2; exit 2; fi
DATA="$(cd "$(dirname "$DATA")" && pwd)/$(basename "$DATA")"
RUN="${RUN:-runs/stable_audio}"
CONFIG="${CONFIG:-configs/stable_audio}"
GPUS="${GPUS:-8}"
source "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"
devices=(--trainer.devices "$GPUS")

train vae "${devices[@]}" --data.folder "$DATA"
once statistics python -m data.latent_statistics --model "$RUN/vae/export" --data.folder "$DATA"
train clap "${devices[@]}" --data.folder "$DATA"
once latents torchrun --nproc_per_node "$GPUS" -m data.latents --model "$RUN/vae/export" --out "$RUN/latents" \
    --data.folder "$DATA"
if [ "$GPUS" -gt 1 ]; then devices+=(--trainer.strategy fsdp); fi
train diffusion "${devices[@]}" --vae "$RUN/vae/export" --text_encoder "$RUN/clap/export" --data.latents "$RUN/latents"
once model publish
