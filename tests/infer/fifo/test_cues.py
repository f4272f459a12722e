"""Cues: which text each frame follows, mode by mode, and what is said about when it is heard."""

import pytest

from infer.fifo.cues import Cue, CueConfig, CueMode, CueSheet
from models.texts import Blend, Text

CHUNK, QUEUE = 4, 12


def sheet(*cues: Cue, front: int = 0, end: int = 0) -> CueSheet:
    result = CueSheet("rain", CHUNK, QUEUE)
    for cue in cues:
        result.add(cue, front, end)
    return result


def texts(cues: CueSheet, front: int) -> list[Text]:
    return [cues.text_at(frame, front) for frame in range(front, front + QUEUE)]


def test_bound_frames_change_at_the_cue_and_nowhere_else():
    cues = sheet(Cue(18, "wind", "bind"))
    for front in range(0, 28, CHUNK):
        assert texts(cues, front) == ["rain" if frame < 18 else "wind" for frame in range(front, front + QUEUE)]


def test_a_switch_changes_the_whole_queue_when_its_chunk_is_next():
    cues = sheet(Cue(18, "wind", "switch"))
    assert texts(cues, 12) == ["rain"] * QUEUE
    assert texts(cues, 16) == ["wind"] * QUEUE


def test_a_glide_moves_evenly_and_arrives():
    cues = sheet(Cue(16, "wind", "glide", 8))
    assert texts(cues, 12) == ["rain"] * QUEUE
    assert texts(cues, 16) == [Blend("rain", "wind", 0.0)] * QUEUE
    assert texts(cues, 20) == [Blend("rain", "wind", 0.5)] * QUEUE
    assert texts(cues, 24) == ["wind"] * QUEUE


def test_cues_act_in_the_order_of_their_times_not_of_their_making():
    cues = sheet(Cue(22, "birds", "bind"), Cue(16, "wind", "switch"))
    assert texts(cues, 12) == ["rain"] * 10 + ["birds"] * 2
    assert texts(cues, 16) == ["wind"] * 6 + ["birds"] * 6
    gliding = sheet(Cue(0, "wind", "glide", 8), Cue(4, "birds", "glide", 8))
    assert gliding.text_at(4, 4) == Blend(Blend("rain", "wind", 0.5), "birds", 0.0)


@pytest.mark.parametrize("mode", ["bind", "switch", "glide"])
def test_forgetting_what_is_over_changes_nothing(mode: CueMode):
    made = [Cue(6 + 10 * k, f"text {k}", mode, 7 if mode == "glide" else 0) for k in range(5)]
    kept, forgetful = sheet(*made), sheet(*made)
    for front in range(0, 80, CHUNK):
        forgetful.move_to(front)
        assert forgetful.frame_texts == texts(forgetful, front) == texts(kept, front)
    assert forgetful.num_cues == 0
    assert set(forgetful.frame_texts) == {"text 4"}


@pytest.mark.parametrize(
    ("cue", "heard"),
    [
        (Cue(30, "wind", "bind"), (30, 30)),  # not in the queue yet: exact
        (Cue(18, "wind", "bind"), (18, 24)),  # on its way already
        (Cue(3, "wind", "bind"), (16, 24)),  # past
        (Cue(30, "wind", "switch"), (28, 28 + QUEUE)),
        (Cue(3, "wind", "switch"), (16, 16 + QUEUE)),
        (Cue(30, "wind", "glide", 8), (28, 28 + 8 + QUEUE)),
    ],
)
def test_when_a_change_is_heard(cue: Cue, heard: tuple[int, int]):
    assert CueSheet("rain", CHUNK, QUEUE).add(cue, front=16, end=24) == heard


def test_state_is_plain_and_comes_back():
    cues = sheet(Cue(6, "wind", "glide", 5), Cue(9, Blend("birds", "bees", 0.3), "bind"))
    cues.move_to(4)
    other = CueSheet("?", CHUNK, QUEUE)
    other.load_state_dict(cues.state_dict())
    assert [texts(other, front) for front in (0, 4, 8, 12)] == [texts(cues, front) for front in (0, 4, 8, 12)]
    assert other.move_to(8) == cues.move_to(8)


def test_changes_under_way_are_reported_and_planned_ones_are_not():
    planned = sheet(Cue(30, "wind", "bind"))
    assert not any(planned.move_to(front).is_under_way for front in range(0, 60, CHUNK))
    switched = sheet(Cue(30, "wind", "switch"))
    assert [front for front in range(0, 60, CHUNK) if switched.move_to(front).is_under_way] == [28]
    late = sheet()
    late.move_to(0)
    late.add(Cue(10, "wind", "bind"), 4, 16)
    assert [front for front in (4, 8, 12) if late.move_to(front).is_under_way] == [4]


def test_the_text_at_the_front_changes_once():
    cues = sheet(Cue(18, "wind", "bind"))
    assert [front for front in range(0, 60, CHUNK) if cues.move_to(front).is_at_front] == [20]
    restored = sheet()
    saved = sheet(Cue(8, "wind", "switch"), Cue(30, "birds", "bind"))
    for front in (0, 4, 8):
        saved.move_to(front)
    restored.load_state_dict(saved.state_dict())
    assert not restored.move_to(12).is_at_front  # the wind is heard already


def test_bad_glides():
    for seconds in (0.0, -3.0, float("nan"), 1e9):
        with pytest.raises(ValueError, match="glide_seconds must lie above 0"):
            CueConfig(glide_seconds=seconds)
