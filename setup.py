"""The list of packages: setup.cfg cannot look for those of a namespace that is not a folder."""

from setuptools import find_packages, setup

ROOMS = ("base", "cli", "demo", "extract", "featstore", "manifests", "train", "view")

setup(
    packages=[
        f"clipfeat.{name}"
        for name in find_packages(
            include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")]
        )
    ]
)
