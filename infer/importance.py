"""Where the U-Net looks in the endless queue, and which focus curved denoising should have:
`python -m infer.importance --model checkpoints/demo`.

For every self-attention on the way up, every network call and every prompt, the attention weights A (queries, keys),
averaged over heads, are brought to places in the queue; finished frames in front of it are left out. A region is a
third of the noise times. Its score is the mean over queries of

    (sum over the region's keys of A) / (number of keys in the region)

and the region with the highest score, averaged over calls, prompts and layers (each relative to its own mean), is the
recommended focus. The command draws a picture, writes the numbers, and leaves the recommendation in the model's folder
for `infer.fifo --sampling.focus auto`.

Source: InfiniteAudio (2506.03020), section 2.2.2 and figure 2. That a mean is divided by the number of keys, and that
regions are thirds of the noise time, are this project's readings.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data.cli import run
from infer.fifo.config import IMPORTANCE, QueueOptions, StreamConfig
from infer.fifo.stream import EndlessStream
from infer.pictures import new_figure
from models.checkpoint import SHIPPED_MODEL, save_config
from models.device import resolve_device
from models.errors import UserError
from models.schedule import Focus
from models.text_to_audio import TextToAudio
from models.unet import UNet
from models.unet_layers import SelfAttention, Transformer

REGIONS: tuple[Focus, ...] = ("last", "middle", "initial")
PROMPTS = (
    "heavy rain with distant thunder",
    "a drum loop at 120 bpm",
    "a steady flute-like note at A4",
    "a siren on the left",
)


def attention_weights(
    attention: SelfAttention, x: Tensor, rotary: tuple[Tensor, Tensor], keys: Tensor | None
) -> Tensor:
    """Return the weights (batch, heads, queries, keys) that the fused attention uses and does not give out."""
    q, k, _ = attention.project(x, rotary)
    logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if keys is not None:
        logits = logits.masked_fill(~keys, -torch.inf)
    return logits.float().softmax(dim=-1)


@dataclass
class LayerAttention:
    """What one self-attention looked at, summed over network calls."""

    name: str
    stride: int
    """Frames per key."""
    map: Tensor
    """(slots, slots): mean attention of the queries in one slot of the queue to a key in another."""
    regions: Tensor
    """(3,): score of each region, in the order of `REGIONS`."""
    num_calls: int = 0

    def add(self, weights: Tensor, t: Tensor, num_context: int, slots: int) -> None:
        """Take the weights (queries, keys) of a call with noise times t (frames,), the queue behind num_context."""
        weights, t = weights.cpu().double(), t.cpu()
        padded = F.pad(t, (0, weights.shape[-1] * self.stride - len(t)), value=math.nan)
        key_t = padded.unflatten(0, (-1, self.stride)).nanmean(dim=1)  # (keys,)
        centre = (torch.arange(len(key_t)) + 0.5) * self.stride - num_context
        inside = (centre > 0) & (centre < len(t) - num_context)
        slot = (centre[inside] * slots / (len(t) - num_context)).long()
        weights = weights[inside][:, inside]
        place = F.one_hot(slot, slots).double()  # (keys, slots)
        count = place.sum(dim=0).clamp(min=1)
        self.map += (place / count).T @ weights @ (place / count)
        region = (key_t[inside] * 3).long().clamp(max=2)
        member = F.one_hot(region, 3).double()  # (keys, 3)
        self.regions += weights.mean(dim=0) @ member / member.sum(dim=0).clamp(min=1)
        self.num_calls += 1


@contextlib.contextmanager
def recorded(unet: UNet, num_context: int, slots: int) -> Iterator[list[LayerAttention]]:
    """Record the self-attention of the way up in every call of the U-Net, of the first sample in the batch.

    Args:
        num_context: finished frames in front of the queue.
        slots: places into which the queue is divided.
    """
    layers: list[LayerAttention] = []
    handles = []
    times: list[Tensor] = []

    def keep_times(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        times[:] = [inputs[1][0]]

    def record(layer: LayerAttention, module: nn.Module, inputs: tuple) -> None:
        assert isinstance(module, SelfAttention)
        x, rotary, keys = inputs
        weights = attention_weights(module, x[:1], rotary, None if keys is None else keys[:1])
        layer.add(weights[0].mean(dim=0), times[0], num_context, slots)

    handles.append(unet.register_forward_pre_hook(keep_times))
    stride = 1
    for level, (factor, blocks) in enumerate(zip(unet.config.factors, unet.levels, strict=True)):
        stride *= factor
        transformer = blocks.up_transformer
        for depth, block in enumerate(transformer.blocks if isinstance(transformer, Transformer) else ()):
            empty = torch.zeros(slots, slots, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
            layer = LayerAttention(f"level {level + 1}, block {depth + 1}", stride, *empty)
            layers.append(layer)
            assert isinstance(block, nn.Module)
            attention = block.get_submodule("self_attention")
            handles.append(attention.register_forward_pre_hook(partial(record, layer)))
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


def measure(
    model: TextToAudio, prompts: tuple[str, ...], config: StreamConfig, num_shifts: int, seed: int = 0
) -> list[LayerAttention]:
    """Play each prompt until queue and context are full, then record num_shifts chunks; sums over all prompts.

    Raises:
        UserError: the U-Net has no self-attention on the way up.
    """
    total: list[LayerAttention] = []
    for prompt in tqdm(prompts, desc="attention", unit="prompt"):
        stream = EndlessStream(model, prompt, config, seeds=seed)
        queue = stream.queue
        for _ in range(1 + -(-queue.context_frames // queue.chunk_frames)):
            stream.next_latents()
        with recorded(model.unet, queue.context_frames, queue.num_chunks) as layers:
            for _ in range(num_shifts):
                stream.next_latents()
        for known, layer in zip(total, layers, strict=False):
            known.map += layer.map
            known.regions += layer.regions
            known.num_calls += layer.num_calls
        total = total or layers
    if not total:
        raise UserError("this U-Net has no self-attention on the way up: there is nothing to look at")
    return total


def report(layers: list[LayerAttention]) -> dict:
    """Return scores per layer and averaged, and the recommended focus, as plain values."""
    rows = [
        {
            "layer": layer.name,
            "stride_frames": layer.stride,
            "regions": dict(zip(REGIONS, (layer.regions / layer.num_calls).tolist(), strict=True)),
            "slots": (layer.map.mean(dim=0) / layer.num_calls).tolist(),
        }
        for layer in layers
    ]
    # A key of a coarse layer gets more of the attention for being one of fewer: each layer counts relative to its mean.
    relative = [[row["regions"][name] / (sum(row["regions"].values()) / 3) for name in REGIONS] for row in rows]
    scores = {name: sum(row[place] for row in relative) / len(rows) for place, name in enumerate(REGIONS)}
    ranking = sorted(scores, key=lambda name: scores[name], reverse=True)
    maps = torch.stack([layer.map / layer.map.sum() for layer in layers]).mean(dim=0)
    return {
        "focus": ranking[0],
        "margin": scores[ranking[0]] / scores[ranking[1]],
        "regions": scores,
        "slots": (maps.mean(dim=0) * maps.numel()).tolist(),
        "map": (maps * maps.numel()).tolist(),
        "layers": rows,
    }


def draw(values: dict, path: Path) -> None:
    """Draw the averaged map of the queue, and each layer's attention to its slots."""
    figure = new_figure(11, 4.5)
    left, right = figure.subplots(1, 2)
    image = left.imshow(values["map"], origin="lower", cmap="magma")
    left.set(xlabel="key: slot, 1 is next to leave", ylabel="query: slot", title="attention, averaged (1 is even)")
    slots = range(1, len(values["slots"]) + 1)
    left.set_xticks([slot - 1 for slot in slots], [str(slot) for slot in slots])
    left.set_yticks([slot - 1 for slot in slots], [str(slot) for slot in slots])
    figure.colorbar(image, ax=left)
    for layer in values["layers"]:
        mean = sum(layer["slots"]) / len(layer["slots"])
        right.plot(slots, [value / mean for value in layer["slots"]], linewidth=1, label=layer["layer"])
    right.plot(slots, values["slots"], color="black", linewidth=2.5, label="average")
    scores = ", ".join(f"{name} {values['regions'][name]:.3f}" for name in REGIONS)
    right.set(xlabel="key: slot, noisier to the right", ylabel="attention (1 is even)", title=f"{scores}")
    right.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(
    model: Path = SHIPPED_MODEL,
    prompts: tuple[str, ...] = PROMPTS,
    num_shifts: int = 8,
    queue: QueueOptions = QueueOptions(),  # noqa: B008 - frozen
    seed: int = 0,
    out: Path = Path("runs/importance"),
    write: bool = True,
    device: str = "auto",
) -> None:
    """Measure which noise levels of the queue the U-Net attends to, and recommend a focus for curved denoising.

    Args:
        model: Folder of the model.
        prompts: What to play meanwhile.
        num_shifts: Chunks to measure of each prompt.
        queue: The queue, where it is not the one that the model was trained for.
        seed: Same seed, same numbers.
        out: Folder for importance.png and importance.json.
        write: Whether to leave the recommendation in the model's folder, for infer.fifo --sampling.focus auto.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    if num_shifts < 1 or not prompts:
        raise UserError(f"needs at least one prompt and one shift, got {len(prompts)} and {num_shifts}")
    bundle = TextToAudio.load(model, resolve_device(device))
    values = report(measure(bundle, tuple(prompts), StreamConfig(queue=queue), num_shifts, seed))
    draw(values, out / "importance.png")
    (out / "importance.json").write_text(
        json.dumps(values | {"queue": asdict(queue.of(bundle.queues[0]))}, indent=1) + "\n"
    )
    if write:
        save_config(model, IMPORTANCE, {name: values[name] for name in ("focus", "margin", "regions")})
    run_lines = [f"{name:8} {score:.3f}" for name, score in values["regions"].items()]
    tqdm.write("\n".join([*run_lines, f"focus: {values['focus']}, {values['margin']:.2f} times the next; {out}"]))


if __name__ == "__main__":
    run(main)
