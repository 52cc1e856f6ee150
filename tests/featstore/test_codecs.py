"""Bytes of a record to bytes on disk: other libraries read them, changed bits raise."""

import contextlib

import numcodecs
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refused import refuses

from clipfeat.featstore import CorruptStoreError
from clipfeat.featstore.shards import crc32c, decode_zstd, encode, zstd_frame_header

RECORD = np.random.default_rng(0).integers(0, 4, 3000).astype(np.uint8)


def test_another_zstd_reads_our_frames():
    decoded = pa.Codec("zstd").decompress(encode("zstd", RECORD), RECORD.size)
    assert decoded.to_pybytes() == RECORD.tobytes()


@pytest.mark.parametrize(
    ("content", "crc"),
    [  # RFC 3720, appendix B.4, and the check value of the CRC catalogue
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (b"123456789", 0xE3069283),
    ],
)
def test_crc32c_of_published_vectors(content, crc):
    assert crc32c(content) == crc.to_bytes(4, "little")
    assert crc32c(np.frombuffer(content, np.uint8)) == crc.to_bytes(4, "little")


@given(st.binary(max_size=70_000))
def test_zstd_round_trip_at_every_header_form(content):
    record = np.frombuffer(content, np.uint8)
    encoded = encode("zstd", record)
    if content:
        assert zstd_frame_header(encoded) == (len(content), True)
        out = np.empty_like(record)
        decode_zstd(encoded, out)
        assert out.tobytes() == content


def test_a_flipped_bit_of_a_zstd_record_never_gives_other_bytes():
    encoded = bytearray(encode("zstd", RECORD))
    bits = np.random.default_rng(1).choice(len(encoded) * 8, 500, replace=False)
    harmless = 0
    for bit in map(int, bits):
        encoded[bit // 8] ^= 1 << bit % 8
        out = np.empty_like(RECORD)
        with contextlib.suppress(CorruptStoreError):
            decode_zstd(bytes(encoded), out)
            # A few bits carry nothing: the unused one of the header (RFC 8878, 3.1.1.1.1.3).
            assert out.tobytes() == RECORD.tobytes()
            harmless += 1
        encoded[bit // 8] ^= 1 << bit % 8
    assert harmless < 10


@pytest.mark.parametrize(
    ("encoded", "name"),
    [
        (numcodecs.Zstd(1).encode(RECORD), "without a checksum"),
        (numcodecs.Zstd(1, checksum=True).encode(RECORD[:100]), "100 bytes"),
        (numcodecs.Zstd(1, checksum=True).encode(np.zeros(10**7, np.uint8)), "10000000 bytes"),
        (b"", "-1 bytes"),
        (b"not a frame at all", "-1 bytes"),
    ],
)
def test_frames_that_are_not_the_record_are_refused_by_their_header(encoded, name):
    with refuses("E-SHARD-FRAME", name, kind=CorruptStoreError):
        decode_zstd(bytes(encoded), np.empty_like(RECORD))
