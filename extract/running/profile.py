"""Where the time of an extraction goes."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Spent:
    """Seconds of one device's batches; what runs in several processes or threads is summed."""

    wall: float = 0.0  # from one batch to the next
    device: float = 0.0  # the device computed
    decode: float = 0.0  # decoder processes read, decoded and resized
    encode: float = 0.0  # threads compressed
    write: float = 0.0  # the writer's thread wrote and hashed

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    @property
    def waited(self) -> float:
        """Return the share of time, 0 to 1, in which the device had nothing to do."""
        return max(0.0, 1 - self.device / self.wall) if self.wall else 0.0

    def text(self, images: int) -> str:
        """Return a table for a person: seconds of each stage, and milliseconds an image."""
        stages = {
            "device": (self.device, "computing"),
            "decode": (self.decode, "decoder processes, summed"),
            "encode": (self.encode, "compressing threads, summed"),
            "write": (self.write, "writing and hashing"),
            "wall": (self.wall, f"the device waited {100 * self.waited:.1f} % of it"),
        }
        return "\n".join(
            f"{name:<8}{seconds:9.2f} s {1000 * seconds / max(1, images):9.2f} ms/image  {what}"
            for name, (seconds, what) in stages.items()
        )
