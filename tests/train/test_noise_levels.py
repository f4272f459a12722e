"""The mixture of noise times: shares, stratification, and that every queue is one that generation can show."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from models.errors import UserError
from models.queue import QueueConfig, queue_times
from models.schedule import time_grid
from train.noise_levels import KINDS, NoiseLevelConfig, NoiseLevels, crop, sample_noise_levels, splice

FRAMES = 32 + 10 * 16
QUEUE = QueueConfig(context_frames=32, chunk_frames=16, num_chunks=10, steps_per_shift=3)
SINGLE = replace(QUEUE, steps_per_shift=1)


def draw(
    batch: int = 64,
    frames: int = FRAMES,
    seed: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
    queues: Sequence[QueueConfig] = (QUEUE,),
    **changes: Any,
):
    shared = torch.Generator().manual_seed(seed)
    first = rank * batch
    generators = [torch.Generator().manual_seed(10_000 * seed + i + 1) for i in range(first, first + batch)]
    settings: dict[str, Any] = {"splice": 0.0} | changes
    config = NoiseLevelConfig(**settings)
    return sample_noise_levels(frames, shared, generators, config, queues, rank=rank, num_ranks=num_ranks)


def only(kind: str, **changes: Any) -> dict[str, Any]:
    return {name: float(name == kind) for name in KINDS} | changes


@pytest.mark.parametrize("frames", [1, 16, 100, FRAMES, 500])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_range(kind: str, frames: int):
    levels = draw(frames=frames, **only(kind))
    assert levels.t.shape == levels.loss_mask.shape == (64, frames)
    assert levels.t.dtype == torch.float32
    assert levels.t.min() >= 0
    assert levels.t.max() <= 1
    assert {KINDS[i] for i in levels.kind.tolist()} == {kind}


def test_shares_hold_within_a_batch():
    levels = draw(batch=100)
    counts = [int((levels.kind == i).sum()) for i in range(4)]
    assert all(abs(count - share) <= 1 for count, share in zip(counts, [45, 35, 10, 10], strict=True))


@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_every_rank_has_its_part_of_each_kind(num_ranks: int):
    for seed in range(20):
        parts = [draw(batch=8, seed=seed, rank=rank, num_ranks=num_ranks).kind for rank in range(num_ranks)]
        for kind, share in enumerate(NoiseLevelConfig().shares):
            counts = torch.tensor([int((part == kind).sum()) for part in parts])
            assert (counts - 8 * share).abs().max() < 2


def test_every_sample_has_each_kind_at_its_share():
    kinds = torch.stack([draw(batch=4, seed=seed).kind for seed in range(2000)])
    for kind, share in enumerate(NoiseLevelConfig().shares):
        assert ((kinds == kind).float().mean(dim=0) - share).abs().max() < 0.05


def test_same_seed_same_levels():
    first, second, other = draw(seed=3), draw(seed=3), draw(seed=4)
    assert torch.equal(first.t, second.t)
    assert not torch.equal(first.t, other.t)


def test_all_uniform_is_one_level_per_clip_and_stratified():
    levels = draw(batch=50, **only("uniform"))
    assert (levels.t == levels.t[:, :1]).all()
    assert levels.loss_mask.all()
    assert (levels.t[:, 0] * 50).floor().sort().values.tolist() == list(range(50))


def test_ranks_share_the_strata_and_together_draw_what_one_would():
    whole = draw(batch=32, splice=0.5)
    parts = [draw(batch=8, rank=rank, num_ranks=4, splice=0.5) for rank in range(4)]
    for field in NoiseLevels._fields:
        assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field)), field
    uniform = whole.t[whole.kind == KINDS.index("uniform"), 0]
    assert (uniform * len(uniform)).floor().sort().values.tolist() == list(range(len(uniform)))


def test_uniform_t_covers_the_axis_evenly():
    t = torch.cat([draw(seed=seed, batch=7, **only("uniform")).t[:, 0] for seed in range(300)])
    histogram = torch.histc(t, bins=10, min=0, max=1) / len(t)
    assert (histogram - 0.1).abs().max() < 0.015


def test_shift_leans_the_one_level_towards_noise_and_keeps_its_strata():
    even = draw(batch=50, **only("uniform")).t[:, 0]
    leaning = draw(batch=50, **only("uniform", shift=9.0)).t[:, 0]
    assert int((leaning > 0.9).sum()) == 25
    log_odds = [torch.logit(t.double()) for t in (even, leaning)]
    assert torch.allclose(log_odds[1] - log_odds[0], torch.tensor(9.0).double().log().expand(50), atol=1e-4)


def test_shift_leans_filling_queues_towards_their_beginning():
    empty = {}
    for factor in (1.0, 4.0):
        levels = draw(batch=2000, queues=[SINGLE], **only("preroll", shift=factor, focuses=("equal",)))
        growing = (~levels.present).any(dim=1) & (levels.t[:, 0] > 0.05)  # without context
        empty[factor] = (levels.present[growing].sum(dim=1) == 16).float().mean()
    assert empty[1.0] == pytest.approx(1 / 9, abs=0.04)  # the tenth is full and hides nothing
    assert empty[4.0] == pytest.approx((1 - 0.9 / (4 - 3 * 0.9)) / (1 - 0.1 / (4 - 3 * 0.1)), abs=0.06)


def test_a_queue_that_begins_has_a_chunk_however_far_the_draw_leans():
    levels = draw(batch=400, **only("preroll", shift=1e9))
    assert levels.present.any(dim=1).all()
    assert levels.loss_mask.any(dim=1).all()


def queue_of(levels: NoiseLevels, index: int) -> torch.Tensor:
    return levels.t[index][levels.loss_mask[index]]


def test_ramp_is_context_then_rising_chunks():
    levels = draw(**only("ramp"))
    assert (levels.loss_mask == (torch.arange(FRAMES) >= 32)).all()
    context = levels.t[:, :32]
    assert (context == context[:, :1]).all()
    assert context.max() < 0.05
    assert context[:, 0].std() > 0.005
    chunks = levels.t[:, 32:].view(64, 10, 16)
    assert (chunks == chunks[..., :1]).all()
    assert (chunks[..., 0].diff() > 0).all()


def test_phase_and_curves_vary():
    steps = draw(**only("ramp")).t[:, 32::16].diff()
    straight = (steps - 0.1).abs().amax(dim=1) < 1e-3
    assert 4 <= straight.sum() <= 28  # a quarter is not curved
    first = draw(**only("ramp", focuses=("equal",))).t[:, 32] * 30
    assert set(first.round(decimals=3).tolist()) == {1.0, 2.0, 3.0}
    assert ((draw(**only("ramp", focuses=("equal",))).t[:, 32::16].diff() - 0.1).abs() < 1e-5).all()


def test_times_are_those_of_generation():
    levels = draw(**only("ramp", focuses=("last",), max_factor=1.0, context_max_t=0.0))
    shown = torch.stack([queue_times(time_grid(30), QUEUE, call) for call in range(3)])
    distance = (levels.t[:, None, 32:] - shown).abs().amax(dim=-1)  # (batch, calls)
    assert distance.amin(dim=1).max() == 0
    assert set(distance.argmin(dim=1).tolist()) == {0, 1, 2}


def test_each_sample_has_one_of_the_models_queues():
    short = QueueConfig(context_frames=16, chunk_frames=8, num_chunks=4, steps_per_shift=2)
    for weights, share in (((), 0.5), ((1.0, 3.0), 0.75), ((1.0, 0.0), 0.0)):
        levels = draw(batch=400, queues=[QUEUE, short], **only("ramp", queue_weights=weights, focuses=("equal",)))
        is_short = levels.window == short.window_frames
        assert is_short.float().mean().item() == pytest.approx(share, abs=0.08)
        assert (levels.window[~is_short] == QUEUE.window_frames).all()
        assert not levels.present[is_short, short.window_frames :].any()
        shown = torch.stack([queue_times(time_grid(8), short, call) for call in range(2)])
        distance = (levels.t[is_short, None, 16 : short.window_frames] - shown).abs().amax(dim=-1)
        assert (distance.amin(dim=1) < 1e-6).all()


def test_weights_are_one_for_each_queue():
    config = NoiseLevelConfig(queue_weights=(1.0, 2.0))
    config.check_queues([QUEUE, SINGLE])
    with pytest.raises(UserError, match=r"one for each of the 1 model\.queues"):
        config.check_queues([QUEUE])


@pytest.mark.parametrize("frames", [100, 64])
def test_a_short_window_is_a_crop_of_the_ramp(frames: int):
    levels = draw(frames=frames, **only("ramp", focuses=("equal",)))
    starts = set()
    for index in range(64):
        queue = queue_of(levels, index)
        starts.add(frames - len(queue))
        step = queue.diff()
        assert ((step.abs() < 1e-6) | ((step - 0.1).abs() < 1e-5)).all()
        assert (frames - len(queue)) % 16 == 0
    assert max(starts) == 32
    assert 0 in starts


def test_a_queue_in_a_long_crop_is_the_one_of_generation():
    long, whole = draw(frames=FRAMES + 64, splice=0.5), draw(splice=0.5)
    is_uniform = long.kind == KINDS.index("uniform")
    assert torch.equal(long.window, torch.where(is_uniform, FRAMES + 64, FRAMES))
    assert torch.equal(long.present[is_uniform].sum(dim=1), long.window[is_uniform])
    assert not long.present[~is_uniform, FRAMES:].any()
    for field in ("t", "loss_mask", "present"):
        assert torch.equal(getattr(long, field)[:, :FRAMES], getattr(whole, field)), field
    assert torch.equal(long.cut, whole.cut)


def test_a_window_is_cut_from_what_is_real():
    latents = torch.arange(40.0).expand(300, 2, 40)
    frame_mask = torch.arange(40) < torch.tensor([40, 20, 5]).repeat(100)[:, None]
    window = torch.tensor([40, 12]).repeat_interleave(150)
    generators = [torch.Generator().manual_seed(i) for i in range(300)]
    cropped, cropped_mask, start = crop(latents, frame_mask, window, generators)
    expected = [1, 1, 1, 29, 9, 1]  # how many places there are: for windows of all 40 frames, then of 12
    for group, places in enumerate(expected):
        rows = torch.arange(group // 3 * 150 + group % 3, (group // 3 + 1) * 150, 3)
        assert set(start[rows].tolist()) <= set(range(places))
        assert len(start[rows].unique()) > 0.7 * places
    for row in range(300):
        seen = slice(int(start[row]), min(40, int(start[row]) + int(window[row])))
        length = seen.stop - seen.start
        assert torch.equal(cropped[row, :, :length], latents[row, :, seen])
        assert torch.equal(cropped_mask[row, :length], frame_mask[row, seen])


def test_preroll_fills_and_drains():
    levels = draw(batch=300, **only("preroll", focuses=("equal",)))
    waiting = (levels.t[:, -16:] == 1).all(dim=1)  # the last chunk has not begun
    num_context = (levels.t[:, ::16] == levels.t[:, :1]).cumprod(dim=1).sum(dim=1) * 16 * (levels.t[:, 0] < 0.05)
    assert 90 < waiting.sum() < 180
    assert num_context[waiting].max() == 32
    assert (num_context[waiting] == 0).float().mean() > 0.4
    draining = ~waiting
    assert (levels.t[draining, -1] < 1).any()
    assert (~levels.loss_mask & levels.present).sum(dim=1)[draining].max() == FRAMES - 16  # one chunk left
    assert (levels.t[levels.loss_mask] > 0).all()


def test_a_growing_queue_shows_the_windows_of_generation():
    queue = replace(QUEUE, steps_per_shift=2)
    levels = draw(batch=400, queues=[queue], **only("preroll", focuses=("equal",), context_max_t=0.0))
    growing = (~levels.present).any(dim=1)
    assert 50 < growing.sum() < 150
    assert not (levels.loss_mask & ~levels.present).any()
    shown = torch.stack([queue_times(time_grid(20), queue, call) for call in range(2)])  # (2, 160)
    for t, loss_mask, present in zip(
        levels.t[growing], levels.loss_mask[growing], levels.present[growing], strict=True
    ):
        length = int(present.sum())
        assert present[:length].all()
        queue = t[loss_mask]
        assert len(queue) % 16 == 0
        assert (queue - shown[:, len(shown[0]) - len(queue) :]).abs().amax(dim=1).min() < 1e-6  # noisest chunks


def test_only_preroll_hides_frames():
    levels = draw(batch=200)
    assert levels.present[levels.kind != KINDS.index("preroll")].all()


@pytest.mark.parametrize("kind", ["ramp", "preroll"])
def test_spliced_queues_have_no_loss_before_a_border_between_chunks(kind: str):
    plain, levels = draw(batch=400, **only(kind)), draw(batch=400, **only(kind, splice=0.25))
    is_cut = levels.cut > 0
    assert 0.15 < is_cut.float().mean() < 0.3
    assert (levels.cut % 16 == 0).all()
    assert len(levels.cut.unique()) > 8
    after = torch.arange(FRAMES) >= levels.cut[:, None]
    assert torch.equal(levels.loss_mask, plain.loss_mask & after)
    assert levels.loss_mask.any(dim=1).all()
    assert torch.equal(levels.t, plain.t)


def test_other_kinds_are_never_spliced():
    levels = draw(batch=200, uniform=1.0, ramp=0.0, preroll=0.0, independent=1.0, splice=1.0)
    assert not levels.cut.any()


def test_neighbours_lend_each_other_what_stands_before_the_cut():
    latents = torch.arange(5.0)[:, None, None].expand(5, 2, 6)
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[1, 2:] = False
    spliced, spliced_mask = splice(latents, mask, torch.tensor([3, 0, 2, 4, 5]))
    assert spliced[:, 1].tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [3, 3, 2, 2, 2, 2],
        [2, 2, 2, 2, 3, 3],
        [4, 4, 4, 4, 4, 4],  # the last of an odd number has no neighbour
    ]
    assert spliced_mask[0].tolist() == [True, True, False, True, True, True]  # the neighbour ends after two frames
    assert torch.equal(spliced_mask[1:], mask[1:])


def test_independent_chunks_sorted_or_not():
    chunks = draw(batch=100, **only("independent")).t.view(100, 12, 16)
    assert (chunks == chunks[..., :1]).all()
    is_sorted = (chunks[..., 0].diff() >= 0).all(dim=1)
    assert 30 < is_sorted.sum() < 70
    assert chunks[..., 0].mean().item() == pytest.approx(0.5, abs=0.05)


def test_zero_share_never_appears():
    kinds = torch.cat([draw(batch=5, seed=seed, ramp=0.0, independent=0.0).kind for seed in range(200)])
    assert set(kinds.tolist()) == {0, 2}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict.fromkeys(KINDS, 0.0), "at least one of uniform, ramp, preroll, independent must be above 0"),
        ({"ramp": -0.1}, r"ramp must be in \[0, 1000000\], got -0.1"),
        ({"uniform": math.nan}, r"uniform must be in \[0, 1000000\], got nan"),
        ({"context_max_t": 1.0}, r"context_max_t must be in \[0, 0.99\], got 1.0"),
        ({"shift": 0.5}, r"shift must be in \[1, 1000000000\], got 0.5"),
        ({"splice": 1.5}, r"splice must be in \[0, 1\], got 1.5"),
        ({"focuses": ()}, "focuses must name at least one curve"),
    ],
)
def test_errors(changes: dict[str, Any], named: str):
    with pytest.raises(UserError, match=named):
        NoiseLevelConfig(**changes)
