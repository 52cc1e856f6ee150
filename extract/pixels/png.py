"""PNG files without the chunks that hold no pixel."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEAD, CHECKSUM = 8, 4  # bytes of a chunk before and behind its data
SIDE = 0x20  # the bit of a chunk's first letter that says so (PNG specification, 5.4)
# Of the side chunks, the one that decides pixels: a transparent colour.
KEPT = b"tRNS"


def without_side_chunks(content: bytes) -> bytes | None:
    """Return a PNG file without texts, profiles and the like; None where nothing can be left out.

    Such chunks may be damaged, or longer than Pillow reads, in a file whose pixels are sound.
    Critical chunks stay as they are, and so does a rest that is no chunk.
    """
    if not content.startswith(SIGNATURE):
        return None
    kept, at = [SIGNATURE], len(SIGNATURE)
    while at + HEAD <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        name = content[at + 4 : at + HEAD]
        behind = at + HEAD + length + CHECKSUM
        if name == KEPT or not name[0] & SIDE:
            kept.append(content[at:behind])
        at = behind
    left = b"".join(kept)
    return left if len(left) < len(content) else None
