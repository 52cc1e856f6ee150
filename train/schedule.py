"""The learning rate of each update, after which ones the model is evaluated, and which is the last."""

import math

from .settings import LoopSettings


def total_updates(settings: LoopSettings, examples: int) -> int:
    """Return how many updates a run of so many examples an epoch has."""
    return settings.updates or settings.epochs * updates_an_epoch(settings, examples)


def updates_an_epoch(settings: LoopSettings, examples: int) -> int:
    """Return how many updates see every example once; the last takes what is left."""
    return math.ceil(examples / settings.batch_size)


def is_evaluated(step: int, steps: int, epoch_steps: int, settings: LoopSettings) -> bool:
    """Return whether the model is evaluated after update `step` (from 1) of `steps`."""
    return step == steps or step % (settings.eval_every or epoch_steps) == 0


def next_pause(step: int, steps: int, epoch_steps: int, settings: LoopSettings) -> int:
    """Return how many updates are done at the next epoch's end or evaluation, given those done.

    >>> [next_pause(step, 25, 10, LoopSettings(eval_every=4)) for step in (0, 5, 8, 10, 24)]
    [4, 8, 10, 12, 25]
    """
    lengths = (epoch_steps, settings.eval_every or epoch_steps)
    return min(steps, *(step - step % length + length for length in lengths))


def learning_rate(step: int, steps: int, settings: LoopSettings) -> float:
    """Return the rate of update `step` (from 0) of `steps`.

    It rises from `warmup_from` times `lr` to `lr`, in a line or in `warmup_steps` equal steps, then
    follows the schedule. Shares of the run are rounded to whole updates, so that six digits say an
    update of the papers exactly.
    """
    warmup = round(settings.warmup * steps)
    if step < warmup:
        risen = (step + 1) / warmup
        if levels := settings.warmup_steps:
            risen = step * levels // warmup / levels
        return settings.lr * (settings.warmup_from + (1 - settings.warmup_from) * risen)
    progress = (step - warmup) / (steps - warmup)
    match settings.schedule:
        case "cosine":
            falls = 0.5 * (1 + math.cos(math.pi * progress))
            return settings.lr * (settings.lr_end + (1 - settings.lr_end) * falls)
        case "linear":
            return settings.lr * (settings.lr_end + (1 - settings.lr_end) * (1 - progress))
        case "step":
            passed = sum(step >= round(share * steps) for share in settings.milestones)
            return settings.lr * settings.decay**passed
        case "noam":  # Vaswani et al. 2017, section 5.3: by the square root of the update
            return settings.lr * math.sqrt(max(warmup, 1) / (step + 1))
        case _:  # constant
            return settings.lr


def first_other_rate(old: LoopSettings, new: LoopSettings, examples: int) -> int | None:
    """Return the first update (from 0) of a run that has another rate in a longer one.

    `examples` is the number of examples of an epoch. None: all updates of the run have the same rate
    in both.
    """
    fewer, more = total_updates(old, examples), total_updates(new, examples)
    steps = range(fewer)
    return next(
        (s for s in steps if learning_rate(s, fewer, old) != learning_rate(s, more, new)), None
    )


def kept_shares(settings: LoopSettings, share: float) -> str:
    """Return the options that keep the warm-up and milestones of a run that becomes `share` of one.

    They are empty for schedules that end with the run.

    >>> kept_shares(LoopSettings(schedule="constant", warmup=0.05), 1 / 2)
    '--set warmup=0.025'
    """
    if settings.schedule in ("cosine", "linear"):
        return ""
    warmup = f"--set warmup={settings.warmup * share:.6g}"
    milestones = ",".join(f"{milestone * share:.6g}" for milestone in settings.milestones)
    return f'{warmup} --set "milestones=[{milestones}]"' if milestones else warmup
