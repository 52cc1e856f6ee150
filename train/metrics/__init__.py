"""Scores of answers and captions, as published, and CIDEr-D as a reward for training."""

# The remark on a CIDEr whose document frequencies are those of one image.
ONE_IMAGE = "0 by definition for one image, since each of its n-grams is in all images"


def cider_label(name: str, images: int) -> str:
    """Return the label of a CIDEr, or a CIDEr-D, of so many images."""
    return f"{name} ({ONE_IMAGE})" if images == 1 else name


def cider_remark(images: int) -> dict[str, str]:
    """Return the remark on a CIDEr, or a CIDEr-D, of so many images for a JSON result, if any."""
    return {"remark": f"CIDEr is {ONE_IMAGE}"} if images == 1 else {}
