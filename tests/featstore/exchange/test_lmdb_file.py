"""LMDB databases are read without LMDB: what it wrote, and never a crash where they are damaged."""

import os
import random

import lmdb
import pytest
from refused import refuses

from clipfeat.base.errors import UsageError
from clipfeat.featstore.exchange.lmdbfile import LmdbFile


def write(folder, *, subdir=True, rounds=3, keys=2000):
    """Write a database with keys and values of all sizes, some of them deleted again."""
    rng = random.Random(0)
    held = {}
    env = lmdb.open(str(folder), map_size=1 << 30, subdir=subdir)
    for _ in range(rounds):
        with env.begin(write=True) as txn:
            for _ in range(keys):
                key = b"key/%07d" % rng.randrange(3 * keys) + b"x" * rng.randrange(100)
                value = os.urandom(rng.choice([0, 1, 50, 1500, 2030, 2048, 9000]))
                txn.put(key, value)
                held[key] = value
            for key in rng.sample(sorted(held), keys // 5):
                txn.delete(key)
                del held[key]
    env.close()
    return held


@pytest.mark.parametrize("subdir", [True, False])
def test_all_that_lmdb_has(tmp_path, subdir):
    held = write(tmp_path / "db", subdir=subdir)
    file = LmdbFile(tmp_path / "db")
    found = {key: bytes(file.value(place)) for key, place in file.places() if place}
    assert list(found) == sorted(held)
    assert found == held
    assert file.entries == len(held)
    some = random.Random(1).sample(sorted(held), 300)
    assert all(file.get(key) == held[key] for key in some)
    assert [file.get(key) for key in (b"", b"key", b"zzz", some[0] + b"?")] == [None] * 4
    file.close()


def test_an_empty_database(tmp_path):
    lmdb.open(str(tmp_path / "db")).close()
    file = LmdbFile(tmp_path / "db")
    assert (list(file.places()), file.get(b"a"), file.entries) == ([], None, 0)


def test_the_later_metadata_count(tmp_path):
    env = lmdb.open(str(tmp_path / "db"))
    for k in range(5):
        with env.begin(write=True) as txn:
            txn.put(b"a", b"%d" % k)
        file = LmdbFile(tmp_path / "db")
        assert file.get(b"a") == b"%d" % k
        file.close()
    env.close()


def test_several_values_for_a_key_are_refused(tmp_path):
    env = lmdb.open(str(tmp_path / "db"), max_dbs=1)
    env.open_db(None, dupsort=False)
    env.close()
    env = lmdb.open(str(tmp_path / "named"), max_dbs=1)
    named = env.open_db(b"other")
    with env.begin(write=True) as txn:
        txn.put(b"a", b"1", db=named)
    env.close()
    file = LmdbFile(tmp_path / "named")
    assert list(file.places()) == [(b"other", None)]  # a database, which is not a value


def test_damaged_anywhere(tmp_path):
    held = write(tmp_path / "db", rounds=2, keys=500)
    whole = (tmp_path / "db" / "data.mdb").read_bytes()
    pages = len(whole) // 4096
    path = tmp_path / "damaged"
    lost = 0
    for seed in range(120):
        rng = random.Random(seed)
        content = bytearray(whole)
        for _ in range(rng.choice([1, 3, 100])):
            at = rng.randrange(pages) * 4096 + rng.randrange(rng.choice([16, 64, 4096]))
            content[at] ^= 1 << rng.randrange(8)
        if seed % 4 == 0:
            del content[rng.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            file = LmdbFile(path)
        except UsageError:
            continue
        found = [key for key, place in file.places() if place and file.value(place) is not None]
        lost += len(found) < len(held)
        for key in found[:20]:
            try:
                file.get(key)
            except ValueError:
                continue
        file.close()
    assert lost


def test_a_damaged_node_at_the_end_of_the_file(tmp_path):
    env = lmdb.open(str(tmp_path / "db"))
    with env.begin(write=True) as txn:
        txn.put(b"keys", b"1")
    env.close()
    path = tmp_path / "db" / "data.mdb"
    content = bytearray(path.read_bytes())
    key = content.rindex(b"keys")
    del content[(key // 4096 + 1) * 4096 :]
    content[key - 4] |= 1  # its flags: the value has pages of its own, whose number follows the key
    path.write_bytes(content)
    file = LmdbFile(path)
    assert list(file.places()) == [(b"keys", None)]
    with pytest.raises(ValueError, match="damaged"):
        file.get(b"keys")
    file.close()


@pytest.mark.parametrize("content", [b"", b"x", bytes(8192), b"SQLite format 3\0" + bytes(9000)])
def test_another_file(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with refuses("E-IMPORT-LMDB"):
        LmdbFile(tmp_path / "file")
