"""`clipfeat doctor`: the facts and checks of a machine, in the order in which they are printed."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..base.errors import ExtractUsageError
from ..base.text import counted
from .facts import Check, Outcome, fact, machine_facts, not_imported

OPENAI = "openai"  # the tag of the weights that values are published for


def diagnose(
    folder: Path, models: Sequence[str], *, weights: str = "", image: Path | None = None
) -> Iterator[Check]:
    """Yield the lines of the report as they are known; about half a minute on each device.

    `folder` is where stores are going to be written: its disk is measured, and temporary files are
    made in it. With `weights`, a file or "openai", these are compared with published values, one
    of which needs `image`.

    Raises ExtractUsageError for weights that are neither, before anything is measured; and after
    the machine's facts for an unknown model, and for one without grids.
    """
    if weights not in ("", OPENAI) and not Path(weights).is_file():
        raise ExtractUsageError(
            f"--weights {weights}: neither a file nor {OPENAI!r}; pass the file of OpenAI's "
            f"ViT-B/32",
            code="E-WEIGHTS-UNKNOWN",
        )
    yield from machine_facts(folder)
    try:
        import torch

        from .published import check_published
        from .self_test import make_reference, self_test
    except ImportError as error:
        yield not_imported("devices", error)
        return
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    yield device_facts(devices)
    if weights:
        yield from check_published(weights, image)
    references = [make_reference(model) for model in models]
    for device in devices:
        yield from self_test(device, references, folder)


def device_facts(devices: Sequence[str]) -> Check:
    """Return the GPUs that torch finds, each with its memory."""
    import torch

    found: list[dict[str, Any]] = []
    for device in devices[1:]:
        properties = torch.cuda.get_device_properties(device)
        found.append(
            {
                "device": device,
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    cuda = torch.version.cuda  # None in a torch that was built for the CPU alone
    listed = [
        f"{each['device']} {each['name']}, {each['memory_bytes'] / 2**30:.0f} GiB" for each in found
    ]
    built = f"torch is built for CUDA {cuda}" if cuda else "torch is built without CUDA"
    return fact("devices", "; ".join([*listed, built] if found else ["no GPU", built]), gpus=found)


def is_good(checks: Iterable[Check]) -> bool:
    """Return whether no check failed."""
    return all(check.outcome is not Outcome.FAIL for check in checks)


def report(checks: Sequence[Check]) -> dict[str, Any]:
    """Return all lines for scripts."""
    return {
        "ok": is_good(checks),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checks": [check.to_json() for check in checks],
    }


def summary(checks: Sequence[Check]) -> str:
    """Return the last line for a person."""
    failed = [check for check in checks if check.outcome is Outcome.FAIL]
    tried = len(failed) + sum(check.outcome is Outcome.PASS for check in checks)
    if failed:
        return f"{len(failed)} of {counted(tried, 'check')} FAILED"
    return f"all of {counted(tried, 'check')} passed" if tried else "nothing could be checked"
