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


def openvqa_rate(update: int, questions: int, batch: int) -> float:
    """Return OpenVQA's rate over its highest, of an update counted from 1, by its published rule.

    1/4, 2/4 and 3/4 in the first three epochs; a fifth of the rate from epochs 11 and 13 on.
    """
    for quarters in (1, 2, 3):
        if update <= int(questions / batch * quarters):
            return quarters / 4
    return 0.2 ** sum(update > epochs * (questions // batch) for epochs in (10, 12))


MCAN = LoopSettings(
    lr=1.0,
    epochs=13,
    batch_size=64,
    schedule="step",
    warmup=0.230769,
    warmup_from=0.25,
    warmup_steps=3,
    milestones=(0.769231, 0.923077),
    decay=0.2,
)


def test_a_warm_up_in_steps_is_openvqas_at_every_update() -> None:
    questions = 64 * 500  # whole batches, of which OpenVQA drops none
    steps = total_updates(MCAN, questions)
    found = [learning_rate(step, steps, MCAN) for step in range(steps)]
    assert found == pytest.approx([openvqa_rate(n, questions, 64) for n in range(1, 6501)])
    assert [found[n] for n in (0, 499, 500, 999, 1000, 1499, 1500)] == [
        *(0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0)
    ]


def test_a_warm_up_in_steps_is_openvqas_on_vqa_v2() -> None:
    """Its epochs are one update shorter, since it drops the last batch; the rates are the same."""
    steps = total_updates(MCAN, 443_757)
    for epoch in range(13):
        for step in (6934 * epoch, 6934 * epoch + 3000, 6934 * epoch + 6900):
            theirs = openvqa_rate(1 + step, 443_757, 64)
            assert learning_rate(step, steps, MCAN) == pytest.approx(theirs), step


def test_a_warm_up_in_steps_needs_its_first_rate() -> None:
    with refuses("E-SETTINGS-SCHEDULE", "warmup_from=0.250000", kind=UsageError):
        LoopSettings(warmup_steps=3)


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
