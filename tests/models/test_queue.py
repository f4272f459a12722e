import pytest

from models.errors import UserError
from models.queue import QueueConfig


def test_sizes_follow_from_the_four_numbers():
    queue = QueueConfig(context_frames=8, chunk_frames=4, num_chunks=6, steps_per_shift=2)
    assert (queue.num_steps, queue.queue_frames, queue.window_frames) == (12, 24, 32)


@pytest.mark.parametrize(
    ("name", "value"), [("context_frames", -1), ("chunk_frames", 0), ("num_chunks", 0), ("steps_per_shift", 1.5)]
)
def test_a_number_that_makes_no_queue_is_refused_by_its_name(name, value):
    with pytest.raises(UserError, match=f"queue.{name} .*got {value}"):
        QueueConfig(**{name: value})
