"""The training stream: independent of workers, disjoint between ranks, exactly resumable, errors kept readable."""

from itertools import islice
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

from data.datamodule import AudioDataModule, DataConfig
from data.loading import Item, Source, TrainingStream, ValidationBatches, collate


class Numbers:
    """A source whose items name their draw and crop."""

    items_per_draw = 3
    num_validation = 5

    def draw(self, index: int) -> list[Item]:
        return [{"draw": index, "crop": crop, "value": np.array([index, crop], np.float32)} for crop in range(3)]

    def draw_validation(self, index: int) -> Item:
        return {"draw": index, "prompt": f"item {index}", "value": np.zeros(2, np.float32)}


class Broken(Numbers):
    def draw(self, index: int) -> list[Item]:
        if index == 2:
            raise ValueError("clip 2 is broken")
        return super().draw(index)


def _batches(num: int, **options) -> list[list[tuple[int, int]]]:
    stream = TrainingStream(Numbers(), batch_size=4, **options)
    return [list(zip(batch["draw"].tolist(), batch["crop"].tolist(), strict=True)) for batch in islice(stream, num)]


def test_no_batch_holds_two_crops_of_a_draw_and_every_crop_comes_once() -> None:
    batches = _batches(6)
    assert all(len({draw for draw, _ in batch}) == 4 for batch in batches)
    flat = [item for batch in batches for item in batch]
    assert sorted(flat) == [(draw, crop) for draw in range(8) for crop in range(3)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_order_does_not_depend_on_workers(num_workers: int) -> None:
    assert _batches(7, num_workers=num_workers) == _batches(7)


def test_ranks_are_disjoint_and_together_the_whole_stream() -> None:
    ranks = [_batches(3, rank=rank, world_size=2) for rank in range(2)]
    assert ranks[0] + ranks[1] == _batches(6)


@pytest.mark.parametrize("start", [1, 3, 5])
def test_starting_later_is_the_same_stream(start: int) -> None:
    assert _batches(4, start_batch=lambda: start) == _batches(4 + start)[start:]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_a_source_arrives_without_a_worker_traceback(num_workers: int) -> None:
    with pytest.raises(ValueError, match=r"^clip 2 is broken$"):
        next(iter(TrainingStream(Broken(), batch_size=4, num_workers=num_workers)))


def test_validation_is_fixed_and_ranks_have_equal_counts() -> None:
    loaders = [ValidationBatches(Numbers(), 2, rank=rank, world_size=2) for rank in range(2)]
    assert [len(loader) for loader in loaders] == [1, 1]
    first, second = [[batch["draw"].tolist() for batch in loader] for loader in loaders]
    assert (first, second) == ([[0, 2]], [[1, 3]])
    whole = ValidationBatches(Numbers(), 2)
    assert [batch["prompt"] for batch in whole] == [batch["prompt"] for batch in whole]
    assert len(list(whole)) == len(whole) == 3


def test_validation_items_are_drawn_once() -> None:
    drawn: list[int] = []

    class Counting(Numbers):
        def draw_validation(self, index: int) -> Item:
            drawn.append(index)
            return super().draw_validation(index)

    loader = ValidationBatches(Counting(), 2)
    first = next(iter(loader))
    assert torch.equal(first["draw"], next(iter(loader))["draw"])
    assert [batch["draw"].tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
    assert len(list(loader)) == 3
    assert drawn == [0, 1, 2, 3, 4]


def test_collate_types() -> None:
    batch = collate([{"a": 1.5, "b": 2, "c": "x", "d": np.array([True, False])}] * 2)
    assert batch["a"].dtype == torch.float32
    assert batch["b"].dtype == torch.int64
    assert batch["c"] == ["x", "x"]
    assert batch["d"].shape == (2, 2)
    assert batch["d"].dtype == torch.bool


class _NumbersModule(AudioDataModule):
    def make_source(self) -> Source:
        return Numbers()


class _Recorder(lightning.LightningModule):
    """Adds up what it sees, in an order-sensitive way."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.seen: list[list[int]] = []

    def training_step(self, batch, _batch_idx):
        self.seen.append(batch["draw"].tolist())
        return ((self.weight - batch["value"]) ** 2).mean()

    def validation_step(self, batch, _batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def _fit(steps: int, folder: Path, num_workers: int, ckpt_path: str | None = None, **options):
    module = _Recorder()
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, check_val_every_n_epoch=None, val_check_interval=2,
        num_sanity_val_steps=1, **options,
    )  # fmt: skip
    data = _NumbersModule(DataConfig(batch_size=4, num_workers=num_workers), seed=3)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, trainer, data


@pytest.mark.parametrize(
    ("num_workers", "steps", "options"),
    [(0, 5, {}), (1, 4, {}), (0, 5, {"limit_train_batches": 3}), (0, 2, {"accumulate_grad_batches": 2})],
)
def test_resumed_training_equals_uninterrupted_training(
    tmp_path: Path, num_workers: int, steps: int, options: dict
) -> None:
    whole, _, data = _fit(8, tmp_path, num_workers, **options)
    first, trainer, _ = _fit(steps, tmp_path, num_workers, **options)
    trainer.save_checkpoint(tmp_path / "mid.ckpt")
    second, _, resumed_data = _fit(8, tmp_path, num_workers, str(tmp_path / "mid.ckpt"), **options)
    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight)
    assert data.batches_consumed == resumed_data.batches_consumed == len(whole.seen)


def test_resume_with_another_batch_size_goes_on_after_as_many_items() -> None:
    data = _NumbersModule(DataConfig(batch_size=4))
    data.load_state_dict({"batches": 10, "items": 40, "seed": 0})
    assert data.batches_consumed == 10
    wider = _NumbersModule(DataConfig(batch_size=16))
    wider.load_state_dict({"batches": 10, "items": 40, "seed": 0})
    assert wider.batches_consumed == 3
