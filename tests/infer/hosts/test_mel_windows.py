import pytest
import torch
from torch import Tensor

from infer.hosts.mel_windows import MelWindows, WindowConfig

FACTOR = 4
CONFIG = WindowConfig(window_frames=40, new_frames=8, fade_frames=3, edge_frames=2)


def repeat(latents: Tensor) -> Tensor:
    """A decoder that is local in time."""
    return latents.repeat_interleave(FACTOR, dim=-1).transpose(1, 2)


def level(latents: Tensor) -> Tensor:
    """A decoder that pools over the clip: every window differs."""
    return repeat(latents + latents.mean(dim=-1, keepdim=True))


def run(decode, latents: Tensor, sizes: list[int], config: WindowConfig = CONFIG) -> Tensor:
    windows = MelWindows(decode, FACTOR, num_bins=2, config=config)
    pieces = latents.split([*sizes, latents.shape[-1] - sum(sizes)], dim=-1)
    return torch.cat([*(windows.push(piece) for piece in pieces), windows.finish()], dim=1)


@pytest.mark.parametrize("frames", [1, 5, 13, 14, 40, 101])
@pytest.mark.parametrize("size", [1, 7, 16])
def test_a_local_decoder_gives_every_frame_once(frames, size):
    latents = torch.randn(1, 2, frames)
    sizes = [size] * ((frames - 1) // size)
    torch.testing.assert_close(run(repeat, latents, sizes), repeat(latents))


def test_pieces_do_not_matter():
    latents = torch.randn(1, 2, 101)
    assert torch.equal(run(level, latents, [1, 50, 3]), run(level, latents, []))


def test_windows_turn_into_one_another_without_a_step():
    latents = torch.zeros(1, 2, 200)
    latents[..., 100:] = 1.0  # the mean of the windows rises from 0 to 1 while it passes
    mel = run(level, latents, [])[0, :, 0]
    hard = run(level, latents, [], WindowConfig(window_frames=40, new_frames=8, fade_frames=1, edge_frames=2))[0, :, 0]
    outside = torch.ones(len(mel) - 1, dtype=torch.bool)
    outside[100 * FACTOR - 1] = False  # the latents' own step
    assert mel.diff().abs()[outside].max() < 0.5 * hard.diff().abs()[outside].max()


def test_a_resumed_stream_is_the_same():
    latents = torch.randn(1, 2, 101)
    first, second = (MelWindows(level, FACTOR, 2, CONFIG) for _ in range(2))
    start = first.push(latents[..., :50])
    second.load_state_dict(first.state_dict())
    joined = torch.cat((start, second.push(latents[..., 50:]), second.finish()), dim=1)
    assert torch.equal(joined, run(level, latents, []))


def test_a_window_too_small_for_its_parts_is_refused():
    with pytest.raises(ValueError, match="window_frames must hold"):
        WindowConfig(window_frames=17, new_frames=8, fade_frames=3, edge_frames=2)
