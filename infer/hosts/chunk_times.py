"""A noise time per chunk for Stable Audio Open's transformer, by module hooks alone.

The transformer takes its noise time as one token in front of the frames, which every frame attends to. Here each run of
frames with equal times gets such a token of its own, and self-attention is masked: a frame sees its own run's token and
all frames, a token sees itself and all frames. All tokens stand at rotary position 0, where the one of training stood.
With one time for the whole clip every softmax has the terms it had in training, so the output is the unmodified
network's; with several, every token evolves as the one of training does.

Tensors: latents (batch, channels, frames), t (batch, frames), the transformer's own noise time in [0, 1].

Sources: our reading of Evans et al. 2024 (2407.14358), section 3.2; Kim et al. 2024 (FIFO-Diffusion).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChunkTimes:
    """Calls a StableAudioDiTModel with a noise time per frame; `remove` takes the hooks off again."""

    def __init__(self, transformer: Any):
        self.transformer = transformer
        self._run_times: Tensor | None = None  # (batch, runs) while a call is under way
        self._mask: Tensor | None = None  # (batch, runs + frames, runs + frames) bool, True = may be seen
        self._handles = [
            transformer.global_proj.register_forward_hook(self._add_time_tokens),
            transformer.timestep_proj.register_forward_hook(self._drop_clip_time),
            *(
                block.attn1.register_forward_pre_hook(self._mask_attention, with_kwargs=True)
                for block in transformer.transformer_blocks
            ),
        ]

    def __call__(
        self, latents: Tensor, t: Tensor, text: Tensor, globals_: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Predict v, (batch, channels, frames).

        Args:
            text: (batch, tokens, width) for cross-attention.
            globals_: (batch, 1, width), what training joins to the time token.
            rotary: cosine and sine (frames + 1, width) of the positions, the token's first.
        """
        run_of_frame = runs(t)  # (frames,)
        num_runs = int(run_of_frame[-1]) + 1
        first_frames = torch.searchsorted(run_of_frame, torch.arange(num_runs, device=t.device))
        self._run_times = t[:, first_frames]
        self._mask = attention_mask(run_of_frame).expand(len(t), -1, -1) if num_runs > 1 else None
        table = tuple(torch.cat((values[:1].expand(num_runs - 1, -1), values)) for values in rotary)
        try:
            output = self.transformer(
                latents,
                t.new_zeros(len(t)),
                encoder_hidden_states=text,
                global_hidden_states=globals_,
                rotary_embedding=table,
                return_dict=False,
            )[0]
        finally:
            self._run_times = self._mask = None
        return output[..., num_runs - 1 :]

    def remove(self) -> None:
        """Take all hooks off the transformer."""
        for handle in self._handles:
            handle.remove()

    def _add_time_tokens(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        """Turn the global token (batch, 1, width) into one for every run."""
        if self._run_times is None:
            return None
        network = self.transformer
        # `forward` itself: calling the module would run the hook that drops its output.
        embedded = network.timestep_proj.forward(network.time_proj(self._run_times.flatten().to(output.dtype)))
        return output + embedded.unflatten(0, self._run_times.shape)

    def _drop_clip_time(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        return None if self._run_times is None else torch.zeros_like(output)

    def _mask_attention(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return None if self._mask is None else (args, kwargs | {"attention_mask": self._mask})


def runs(t: Tensor) -> Tensor:
    """Number the runs of frames whose times are equal in every sample: (batch, frames) -> (frames,), from 0."""
    changes = (t[:, 1:] != t[:, :-1]).any(dim=0)
    return F.pad(changes.cumsum(0), (1, 0))


def attention_mask(run_of_frame: Tensor) -> Tensor:
    """Return which position sees which, (runs + frames, runs + frames) bool; run tokens first."""
    tokens = torch.arange(int(run_of_frame[-1]) + 1, device=run_of_frame.device)
    run = torch.cat((tokens, run_of_frame))
    is_frame = torch.arange(len(run), device=run.device) >= len(tokens)
    return is_frame[None, :] | (run[:, None] == run[None, :])
