"""Why Pillow opens no image in a file: what the file is instead, or what is wrong with it."""

import io
from collections.abc import Callable

from ...manifests.headers import FORMATS, pillow

CONVERT = "convert it to JPEG or PNG"
# What files begin with, in lower case and after white space.
TEXTS = (
    (b"version https://git-lfs", "a git-lfs pointer in place of the file; type: git lfs pull"),
    (b"<!doctype html", "a web page (HTML), as failed downloads leave it; download it again"),
    (b"<html", "a web page (HTML), as failed downloads leave it; download it again"),
    (b"<svg", f"a drawing (SVG); {CONVERT}"),
    (b"<?xml", "XML text, as failed downloads leave it; download it again"),
    (b"{", "JSON text, as failed downloads leave it; download it again"),
)
BYTES = (
    (b"%PDF", f"a PDF document; {CONVERT}"),
    (b"%!PS", f"PostScript, a program, which is not run; {CONVERT}"),
    (b"\xc5\xd0\xd3\xc6", f"PostScript, a program, which is not run; {CONVERT}"),
    (b"8BPS", f"a Photoshop document; {CONVERT}"),
    (b"\0\0\0\x0cJXL ", f"JPEG XL; {CONVERT}"),
    (b"\xff\x0a", f"JPEG XL; {CONVERT}"),
    (b"PK\3\4", "a ZIP archive; unpack it"),
    (b"\x1f\x8b", "gzip data; unpack it"),
)
HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}  # ISO/IEC 23008-12, annex B
AVIF = {b"avif", b"avis"}
UNDECIDED = {b"mif1", b"msf1"}  # the codec stands among the compatible brands
SHOWN = 40  # characters of a text, for a person


def why_unreadable(content: bytes) -> str:
    """Return for a person why Pillow opens no image in the bytes of a file."""
    return _other_kind(content) or _damage(content) or _beginning(content)


def _other_kind(content: bytes) -> str:
    """Return what a file is if it is of a kind that is known and not read."""
    begin = content[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for kinds, start in ((TEXTS, begin), (BYTES, content)):
        for magic, what in kinds:
            if start.startswith(magic):
                return f"not an image but {what}"
    if content[4:8] == b"ftyp":
        length = int.from_bytes(content[:4], "big")
        brands = {content[at : at + 4] for at in range(8, min(length, 256), 4) if at != 12}
        major = content[8:12]
        if major in HEIF or (major in UNDECIDED and brands & HEIF and not brands & AVIF):
            return f"HEIC, which is not read; {CONVERT}"
        if major not in AVIF | UNDECIDED:
            return "a video or another file of the MP4 family, not an image"
    if content and content.count(0) == len(content):
        return "nothing but zero bytes: the file was never written; copy it again"
    return ""


def _damage(content: bytes) -> str:
    """Return what Pillow's plugin says of a file of a format that is read."""
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if is_webp and int.from_bytes(content[4:8], "little") + 8 > len(content):  # Pillow is silent
        return "WEBP: the file is cut off"
    for name in FORMATS:
        factory, accepts = pillow().OPEN.get(name, (None, None))
        if factory is None or not accepts:
            continue
        accepted = accepts(content[:16])
        if isinstance(accepted, str):
            return f"{name}: {accepted}"
        if accepted:
            return f"{name}: {_said(factory, content)}"
    return ""


def _said(factory: Callable, content: bytes) -> str:
    try:
        factory(io.BytesIO(content), "").close()
    except Exception as error:  # Pillow's parsers raise whatever broken bytes lead them to
        return f"{error}" or type(error).__name__
    return "the header is damaged"


def _beginning(content: bytes) -> str:
    """Return what an unknown file begins with."""
    head = content[:SHOWN]
    text = " ".join(head.decode(errors="replace").split())
    if text and text.isprintable() and "\ufffd" not in text[:-1]:
        return f"not an image but text, which begins with {text!r}"
    return f"no image format that is read here; the file begins with the bytes {head[:8].hex(' ')}"
