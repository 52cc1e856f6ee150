"""Which devices an extraction runs on: a pure choice from what was asked and what there is."""

from ..errors import ExtractUsageError


def choose_devices(
    device: str | None, gpus: str | None, procs: int, gpu_count: int
) -> tuple[str, ...]:
    """Return the torch device of each process, ("cuda:0", "cuda:1") or ("cpu",) for example.

    `gpus` is a number of GPUs or a list of their indices, "0,3". Without it one GPU is taken
    where there is one. Raises ExtractUsageError for devices that are not there.

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
    indices = parse_gpus(gpus)
    if max(indices) >= gpu_count:
        has = f"{gpu_count} GPU{'s' * (gpu_count != 1)}" if gpu_count else "no GPU"
        instead = f"--gpus {gpu_count}" if gpu_count else "--device cpu"
        raise ExtractUsageError(f"--gpus {gpus}: this machine has {has}; type {instead} instead")
    return tuple(f"cuda:{index}" for index in indices)


def parse_gpus(text: str) -> tuple[int, ...]:
    """Return the GPU indices that "8" (a count) or "0,3" (a list) stands for.

    >>> parse_gpus("3"), parse_gpus("0,3")
    ((0, 1, 2), (0, 3))
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise ExtractUsageError(f"--gpus {text!r}: expected a number (8) or a list (0,3)")
    numbers = [int(part) for part in parts]
    if "," not in text:
        if not 1 <= numbers[0] <= 1024:
            raise ExtractUsageError(f"--gpus {text}: expected at least 1; for none, --device cpu")
        return tuple(range(numbers[0]))
    if len(set(numbers)) != len(numbers):
        raise ExtractUsageError(f"--gpus {text}: a GPU is named twice")
    return tuple(numbers)
