#!/usr/bin/env bash
# From nothing to the shipped model: recordings are fetched, instruments and other sounds drawn, three networks trained.
#   RUN=runs/demo       where everything goes; the model is RUN/model
#   BUDGET=cpu          cpu: two cores; gpu: one GPU, in bf16
#   MIXTURE='{...}'     sources of sound by weight (data.mixture); fetched recordings are in RUN/recordings
#   CLIPS=5000          clips of the mixture that the U-Net is trained on
#   CONFIG=configs/demo another folder of vae.yaml, clap.yaml and diffusion.yaml
set -euo pipefail
RUN="${RUN:-runs/demo}"
CONFIG="${CONFIG:-configs/demo}"
source "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"
MIXTURE="${MIXTURE:-{instruments: 5, synthetic: 3, $RUN/recordings: 2\}}"
CLIPS="${CLIPS:-5000}"

case "${BUDGET:-cpu}" in
    cpu) options=() ;;
    gpu) options=(--trainer.accelerator gpu --trainer.precision bf16-mixed --data.num_workers 12) ;;
    *) echo "error: BUDGET must be cpu or gpu, got $BUDGET" >&2; exit 2 ;;
esac
sound=(--data.mixture "$MIXTURE" ${options[@]+"${options[@]}"})

if [[ "$MIXTURE" == *"$RUN/recordings"* ]]; then
    once recordings python -m data.recordings --out "$RUN/recordings"
fi
train vae "${sound[@]}"
once statistics python -m data.latent_statistics --model "$RUN/vae/export" --data.mixture "$MIXTURE"
train clap "${sound[@]}"
once latents python -m data.latents --model "$RUN/vae/export" --out "$RUN/latents" --data.mixture "$MIXTURE" \
    --clips "$CLIPS" --validation_clips 64
train diffusion --vae "$RUN/vae/export" --text_encoder "$RUN/clap/export" --data.latents "$RUN/latents" \
    ${options[@]+"${options[@]}"}
once model publish
