"""What the model is told about its place in the piece."""

from itertools import pairwise

import pytest

from infer.fifo.timing import StreamTiming, Timeline, TimingMode


def timeline(
    mode: TimingMode = StreamTiming.mode,
    total: float | None = None,
    ending: bool = False,
    piece: float | None = None,
    known: float | None = None,
) -> Timeline:
    timing = StreamTiming(mode=mode, ending=ending, piece_seconds=piece)
    return Timeline(timing, max_seconds=480, known_seconds=known, window_seconds=5.0, total_seconds=total)


def test_null_and_steady_never_change():
    assert {timeline("null").at(t) for t in (0, 10, 1e6)} == {(None, None)}
    assert {timeline().at(t) for t in (0, 10, 1e6)} == {(120, 360)}
    assert timeline("steady", known=60).at(3) == (20, 60)
    assert timeline("steady", known=90, piece=60).at(3) == (20, 60)


def test_a_model_without_timing_is_told_nothing():
    told = Timeline(StreamTiming(), max_seconds=None, known_seconds=None, window_seconds=5.0, total_seconds=None)
    assert told.at(3.0) == (None, None)


@pytest.mark.parametrize(("longest", "start"), [(20, 20 / 3), (12, 3.5), (6, 0.5), (4, 0)])
def test_a_steady_window_does_not_reach_the_end_of_a_short_piece(longest: float, start: float):
    assert timeline("steady", known=longest).at(3) == (start, longest)


def test_true_values():
    told = timeline("true", total=30)
    assert [told.at(t) for t in (0, 12.5, 28)] == [(0, 30), (12.5, 30), (28, 30)]


def test_a_piece_longer_than_the_model_knows_stays_in_its_middle_until_its_end_is_near():
    told = timeline("true", total=3600, piece=60)
    assert [told.at(t) for t in (0, 20, 30, 1800, 3570)] == [(0, 60), (20, 60), (30, 60), (30, 60), (30, 60)]
    assert told.at(3595) == (55, 60)
    steps = [told.at(t)[0] or 0.0 for t in range(3600)]
    assert all(0 <= after - before <= 1 for before, after in pairwise(steps))


@pytest.mark.parametrize(("mode", "before"), [("null", (None, None)), ("steady", (20, 60))])
def test_an_ending_tells_the_truth_only_near_the_end(mode: TimingMode, before: tuple):
    told = timeline(mode, total=100, ending=True, piece=60)
    assert told.at(89) == before
    assert told.at(90) == (50, 60)
    assert told.at(99) == (59, 60)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="need the length"):
        timeline("true")
    with pytest.raises(ValueError, match="need the length"):
        timeline(ending=True)
    with pytest.raises(ValueError, match="cannot be told"):
        Timeline(
            StreamTiming(mode="null"), max_seconds=None, known_seconds=None, window_seconds=5.0, total_seconds=None
        )
    for piece in (0, 481):
        with pytest.raises(ValueError, match=f"got {piece}"):
            timeline("steady", piece=piece)
