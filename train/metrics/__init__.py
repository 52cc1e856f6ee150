"""How good captions are: rewards for training, the published scores, and files of captions."""

# What is said beside a CIDEr whose document frequencies are those of one image.
ONE_IMAGE = "0 by definition for one image, since each of its n-grams is in all images"


def cider_label(name: str, images: int) -> str:
    """Return what stands beside a CIDEr, or a CIDEr-D, of so many images."""
    return f"{name} ({ONE_IMAGE})" if images == 1 else name


def cider_remark(images: int) -> dict[str, str]:
    """Return what a result as JSON says of a CIDEr, or a CIDEr-D, of so many images."""
    return {"remark": f"CIDEr is {ONE_IMAGE}"} if images == 1 else {}
