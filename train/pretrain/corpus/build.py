"""Sort sentences into LXMERT's files: which images are held out, and which file an image is in."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ....base.errors import ClipfeatError
from ...grounded.images import COCO_NAME
from .sentences import Sentence

HELD_OUT = "mscoco_minival"
VISUAL_GENOME = "vgnococo"
FILE_OF = {"train2014": "mscoco_train", "val2014": "mscoco_nominival"}
FILES = (*FILE_OF.values(), HELD_OUT, VISUAL_GENOME)
MOST_HELD_OUT, SHARE_HELD_OUT = 5000, 8  # LXMERT holds 5,000 of 40,504 images out: an eighth

Record = dict[str, Any]  # an image as LXMERT's files have it: img_id, sentf, labelf


@dataclass
class Gathered:
    """The sentences so far, by image; and what was dropped."""

    images: dict[str, Record] = field(default_factory=dict)
    blank: int = 0  # sentences without a word
    strays: Counter[str] = field(default_factory=Counter)  # VG's images of COCO, of unknown part

    def add(self, sentences: Iterable[Sentence]) -> None:
        """File each sentence under its image."""
        for sentence in sentences:
            if not sentence.text.strip():
                self.blank += 1
                continue
            empty: Record = {"img_id": sentence.image_id, "sentf": {}, "labelf": {}}
            image = self.images.setdefault(sentence.image_id, empty)
            image["sentf"].setdefault(sentence.source, []).append(sentence.text)
            if sentence.answers is not None:
                image["labelf"].setdefault(sentence.source, []).append(sentence.answers)

    def add_visual_genome(
        self,
        sentences: Iterable[Sentence],
        coco_of: Mapping[str, int | None],
        names: Mapping[int, str],
    ) -> None:
        """File sentences about images of Visual Genome, those of COCO's under COCO's name.

        `coco_of` has the number in COCO of each image, or None, and `names` the name of each
        number. An image whose number has no name is left out: it may be one that is held out.
        """
        for sentence in sentences:
            number = coco_of[sentence.image_id]
            if number is None:
                self.add([sentence])
            elif number in names:
                self.add([sentence._replace(image_id=names[number])])
            else:
                self.strays[sentence.image_id] += 1


def coco_names(image_ids: Iterable[str]) -> dict[int, str]:
    """Return {number: name} of images of COCO; ClipfeatError where one is in two parts of it."""
    names: dict[int, str] = {}
    for image_id in image_ids:
        if coco := COCO_NAME.fullmatch(image_id):
            other = names.setdefault(int(coco[2]), image_id)
            if other != image_id:
                raise ClipfeatError(
                    f"image {int(coco[2])} is both {other} and {image_id}; each image of COCO is "
                    "in one part, so one of its files is another's under a wrong name"
                )
    return names


def choose_held_out(names: Mapping[int, str]) -> frozenset[int]:
    """Return the numbers of the images to hold out where no list names them.

    They are an eighth of val2014, rounded up, and at most 5,000: those whose names have the
    smallest sha256, so that the same images give the same choice anywhere.
    """
    ranks = sorted(
        (hashlib.sha256(name.encode()).digest(), number)
        for number, name in names.items()
        if "_val2014_" in name
    )
    count = min(MOST_HELD_OUT, -(-len(ranks) // SHARE_HELD_OUT))
    return frozenset(number for _, number in ranks[:count])


def divide(images: Mapping[str, Record], held_out: Collection[int]) -> dict[str, list[Record]]:
    """Return {file: its images, by img_id} of the files that have any.

    Images of COCO whose number is in `held_out` are in mscoco_minival and nowhere else.
    """
    files: dict[str, list[Record]] = {name: [] for name in FILES}
    for image_id in sorted(images):
        files[_file_of(image_id, held_out)].append(images[image_id])
    return {name: records for name, records in files.items() if records}


def _file_of(image_id: str, held_out: Collection[int]) -> str:
    coco = COCO_NAME.fullmatch(image_id)
    if coco is None:
        return VISUAL_GENOME
    return HELD_OUT if int(coco[2]) in held_out else FILE_OF[coco[1]]
