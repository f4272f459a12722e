"""Time grids and queue levels, against the values worked out by hand and the paper's counts."""

import pytest
import torch

from models.diffusion import log_snr
from models.schedule import (
    LOG_SNR_LIMIT,
    Focus,
    Thirds,
    region_borders,
    skip_grid,
    skip_grid_of,
    time_grid,
    warp,
)

FOCUSES: list[Focus] = ["initial", "middle", "last"]
REGION = {"last": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "initial": (2 / 3, 1.0)}


def test_equal_grid_is_uniform():
    torch.testing.assert_close(time_grid(4), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(time_grid(7, "last", 1.0), time_grid(7))


def test_last_focused_grid_has_the_known_values():
    expected = [0, 0.046, 0.093, 0.139, 0.185, 0.231, 0.278, 0.324, 0.444, 0.583, 0.722, 0.861, 1]
    torch.testing.assert_close(time_grid(12, "last", 3), torch.tensor(expected), atol=6e-4, rtol=0)


def test_initial_mirrors_last():
    torch.testing.assert_close(time_grid(30, "initial", 4), 1 - time_grid(30, "last", 4).flip(0))
    torch.testing.assert_close(time_grid(30, "middle", 4), 1 - time_grid(30, "middle", 4).flip(0))


@pytest.mark.parametrize("thirds", ["time", "log_snr"])
@pytest.mark.parametrize("focus", FOCUSES)
def test_steps_are_factor_times_denser_in_the_focus(focus: Focus, thirds: Thirds):
    grid = time_grid(600, focus, 3.0, thirds)
    assert grid[0] == 0
    assert grid[-1] == 1
    assert (grid.diff() > 0).all()
    region = ["last", "middle", "initial"].index(focus)
    low, high = region_borders(thirds).tolist()[region : region + 2]
    step, centre = grid.diff(), (grid[1:] + grid[:-1]) / 2
    inside = step[(centre > low) & (centre < high)].median()
    outside = step[(centre < low) | (centre > high)].median()
    assert (outside / inside).item() == pytest.approx(3.0, rel=1e-3)


def test_thirds_in_log_snr_are_equal_there():
    inner = log_snr(region_borders("log_snr")[1:3])
    torch.testing.assert_close(inner, torch.tensor([LOG_SNR_LIMIT / 3, -LOG_SNR_LIMIT / 3], dtype=inner.dtype))


def test_warp_is_the_grid_at_any_position():
    position = torch.rand(50, generator=torch.Generator().manual_seed(0)).sort().values
    warped = warp(position, "last", 3.0)
    assert (warped.diff() > 0).all()
    torch.testing.assert_close(warp(torch.arange(13) / 12, "last", 3.0), time_grid(12, "last", 3.0))
    torch.testing.assert_close(warp(position[:, None], "last", 3.0)[:, 0], warped)


@pytest.mark.parametrize("focus", FOCUSES)
@pytest.mark.parametrize(("factor", "num_steps"), [(2, 133), (3, 111), (4, 100)])
def test_skip_form_has_the_papers_counts(focus: Focus, factor: int, num_steps: int):
    grid = skip_grid(200, focus, factor)
    assert len(grid) == num_steps + 1
    assert grid[0] == 0
    assert grid[-1] == 1
    index = (grid * 200).round()
    torch.testing.assert_close(grid * 200, index, atol=1e-3, rtol=0)
    low, high = REGION[focus]
    kept = set(index.int().tolist())
    assert all(i in kept for i in range(201) if low + 0.005 < i / 200 < high - 0.005)
    outside = index.diff()[(grid[1:] <= low) | (grid[:-1] >= high)]
    assert (outside - factor).abs().max() <= 1


@pytest.mark.parametrize("focus", FOCUSES)
@pytest.mark.parametrize("num_reference", [3, 4, 5, 7, 50, 97])
@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 8.0])
def test_skip_form_is_ascending_for_any_size(focus: Focus, num_reference: int, factor: float):
    grid = skip_grid(num_reference, focus, factor)
    assert (grid.diff() > 0).all()
    assert grid[[0, -1]].tolist() == [0.0, 1.0]
    assert len(grid) - 1 <= num_reference


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: time_grid(0), "num_steps must be at least 1, got 0"),
        (lambda: time_grid(4, "last", 0.5), "factor must be at least 1, got 0.5"),
        (lambda: time_grid(4, "first", 2), "focus must be one of equal, initial, middle, last, got 'first'"),  # pyright: ignore[reportArgumentType]
        (lambda: time_grid(4, "last", 2, "sigma"), "thirds must be one of time, log_snr, got 'sigma'"),  # pyright: ignore[reportArgumentType]
        (lambda: skip_grid(2, "last", 2), "at least 3 steps"),
    ],
)
def test_errors_name_what_is_wrong(call, named: str):
    with pytest.raises(ValueError, match=named):
        call()


@pytest.mark.parametrize("focus", FOCUSES)
@pytest.mark.parametrize("num_steps", [6, 30, 111])
@pytest.mark.parametrize("factor", [1.0, 2.0, 3.0])
def test_skip_form_of_a_given_size(focus: Focus, num_steps: int, factor: float):
    assert len(skip_grid_of(num_steps, focus, factor)) == num_steps + 1


def test_papers_skip_form_is_found_from_its_count():
    assert len(skip_grid_of(111, "last", 3)) == len(skip_grid(200, "last", 3))
    with pytest.raises(ValueError, match="no skipped grid has 1 steps"):
        skip_grid_of(1, "last", 3)
