"""Learning rates, against the published schedules worked by hand."""

import pytest
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.train.schedule import learning_rate, total_updates, updates_an_epoch
from clipfeat.train.settings import LoopSettings


def rates(steps: int, **changes: object) -> list[float]:
    settings = LoopSettings(lr=1.0, **changes)  # type: ignore[arg-type]
    return [learning_rate(step, steps, settings) for step in range(steps)]


def test_it_rises_in_a_line_then_follows_half_a_cosine() -> None:
    found = rates(100, warmup=0.1)
    assert found[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert found[10] == 1.0
    assert found[55] == pytest.approx(0.5)
    assert found[99] == pytest.approx(0.0003, abs=1e-4)
    assert rates(10, warmup=0.0)[0] == 1.0
    assert rates(10, warmup=1.0)[9] == 1.0


def test_linear_and_constant() -> None:
    assert rates(10, warmup=0.2, schedule="linear") == pytest.approx(
        [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    )
    assert rates(5, warmup=0.0, schedule="constant") == [1.0] * 5


def test_steps_multiply_the_rate() -> None:
    found = rates(10, warmup=0.2, warmup_from=0.5, schedule="step", milestones=(0.5, 0.8))
    assert found == pytest.approx([0.75, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_rate_need_not_fall_to_nothing(schedule: str) -> None:
    """It falls as it would to zero, in what is above `lr_end`."""
    to_zero = rates(50, warmup=0.2, schedule=schedule)
    found = rates(50, warmup=0.2, schedule=schedule, lr_end=0.25)
    assert found[:10] == to_zero[:10]
    assert found[10:] == pytest.approx([0.25 + 0.75 * rate for rate in to_zero[10:]])
    assert rates(8, warmup=0.0, schedule=schedule, lr_end=1.0) == [1.0] * 8


def test_an_end_that_is_no_share_is_refused() -> None:
    with refuses("E-SETTINGS-RANGE", "lr_end", "1.5", kind=UsageError):
        LoopSettings(lr_end=1.5)


def test_noam_falls_with_the_square_root_of_the_update() -> None:
    """Vaswani et al. 2017, section 5.3, over its highest rate: min((n / w)^-0.5, n / w)."""
    found = rates(100, warmup=0.04, schedule="noam")
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert [found[8], found[15], found[99]] == pytest.approx([2 / 3, 0.5, 0.2])


def test_updates_follow_from_epochs_or_are_given() -> None:
    settings = LoopSettings(batch_size=512, epochs=3)
    assert updates_an_epoch(settings, 443_757) == 867
    assert total_updates(settings, 443_757) == 3 * 867
    assert total_updates(LoopSettings(updates=22_000), 443_757) == 22_000
