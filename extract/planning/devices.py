"""Which devices an extraction runs on: a pure choice from what was asked and what there is."""

from ...base.machine import require_gpus
from ..errors import ExtractUsageError


def choose_devices(
    device: str | None, gpus: str | None, procs: int, gpu_count: int
) -> tuple[str, ...]:
    """Return the torch device of each process, ("cuda:0", "cuda:1") or ("cpu",) for example.

    `gpus` is a number of GPUs ("8"), a list of them ("0,3") or one ("3,"), counted among those
    that this process sees. Without it one GPU is taken where there is one. Raises UsageError for
    devices that are not there.

    >>> choose_devices(None, "2", 1, 4)
    ('cuda:0', 'cuda:1')
    >>> choose_devices(None, None, 1, 0)
    ('cpu',)
    """
    if device == "cpu":
        if gpus is not None:
            raise ExtractUsageError("--gpus and --device cpu exclude each other; drop one")
        return ("cpu",) * procs
    if procs != 1:
        raise ExtractUsageError("--procs is for --device cpu; for GPUs type --gpus N")
    if gpus is None:
        if gpu_count:
            return ("cuda:0",)
        if device == "cuda":
            raise ExtractUsageError("--device cuda: this machine has no GPU; type --device cpu")
        return ("cpu",)
    return tuple(f"cuda:{index}" for index in require_gpus(gpus, gpu_count))
