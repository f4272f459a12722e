"""Encode a data set to latents once, so that diffusion training need not: `data.latent_source` reads the result.

    python -m data.latents --model checkpoints/demo --out latents [--data.folder my_audio]
    torchrun --nproc_per_node 8 -m data.latents ...

It can be stopped: a shard is complete or absent, and the same command goes on where it stopped. Several processes
share the shards without talking to each other: those of torchrun, or any with `--process_index 0`, 1, ... of
`--num_processes`.
"""

import os
from pathlib import Path

from data.cli import run
from data.clips import LatentDataConfig, open_clips
from data.interrupts import Interrupts
from data.latent_folder import write_latents
from models.device import resolve_device
from models.errors import UserError
from models.vae import VAE

_WHOLE_CORPUS = LatentDataConfig()


def main(
    model: Path,
    out: Path,
    data: LatentDataConfig = _WHOLE_CORPUS,
    clips: int | None = None,
    validation_clips: int | None = None,
    seed: int = 0,
    clips_per_shard: int = 128,
    process_index: int | None = None,
    num_processes: int | None = None,
    device: str = "auto",
) -> None:
    """Encode whole clips to shards of posterior means and standard deviations; finished shards are kept.

    Args:
        model: checkpoint folder with a VAE.
        out: folder to write to; made if its parent exists.
        data: what is encoded.
        clips: training clips; none: all files of the folder, or 2,500 of the procedural corpus.
        validation_clips: validation clips; none: all held-out files, or 64 of the corpus.
        seed: of the procedural corpus's training clips.
        clips_per_shard: clips of a shard.
        process_index: which share of the shards this process writes, from 0; none: torchrun's rank, or 0.
        num_processes: how many processes share the work; none: torchrun's, or 1.
        device: auto, cpu, cuda, mps.
    """
    process_index = int(os.environ.get("RANK", 0)) if process_index is None else process_index
    num_processes = int(os.environ.get("WORLD_SIZE", 1)) if num_processes is None else num_processes
    if min(clips_per_shard, num_processes, 1 if clips is None else clips) < 1:
        raise UserError("clips, clips_per_shard and num_processes must be at least 1")
    if not 0 <= process_index < num_processes:
        raise UserError(f"process_index must be 0 to {num_processes - 1}, got {process_index}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} does not exist")
    vae = VAE.load(model).to(resolve_device(device))
    source = open_clips(data, clips, validation_clips, seed)
    with Interrupts():  # SIGTERM too leaves no partial shard
        write_latents(vae, source, out, clips_per_shard, data.num_workers, process_index, num_processes)


if __name__ == "__main__":
    run(main)
