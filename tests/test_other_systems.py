"""A store made on Linux is read, verified and described where Linux's own names are missing."""

import json
import subprocess
import sys

import numpy as np
import other_system
from stores import make_identity, make_pooled_store


def test_the_base_install_reads_and_verifies_without_the_names_of_linux(tmp_path):
    rng = np.random.default_rng(0)
    grids = {f"i{k:02}": rng.standard_normal((3, 4, 8)).astype(np.float16) for k in range(11)}
    pooled = {i: rng.standard_normal(5).astype(np.float16) for i in [*grids, "x"]}
    paths = [
        make_pooled_store(
            tmp_path / codec, make_identity(8, codec, pooled_dim=5), {**grids, "x": None}, pooled, 4
        )
        for codec in ("zstd", "none")
    ]
    command = [sys.executable, other_system.__file__, *map(str, paths)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr[-3000:]
    said = json.loads(child.stdout)
    features = np.stack([grid.reshape(12, 8) for grid in grids.values()])
    cells = features.reshape(-1, 8).astype(np.float64)
    vectors = [pooled[image_id] for image_id in grids]
    for path, found in zip(paths, said["stores"], strict=True):
        for how in ("read", "mapped"):
            for array, expected in zip(found[how], (features, vectors, grids["i00"]), strict=True):
                np.testing.assert_array_equal(array, expected)
        mean = found["stats"]["grid"]["channels"]["mean"]
        np.testing.assert_allclose(mean, cells.mean(0), rtol=1e-12)
        assert found["info"]["records"] == 11
        assert [row["image_id"] for row in found["ls"]] == [*grids, "x"]
        assert found["digest"]["digest"] == json.loads((path / "store.json").read_text())["digest"]
        assert found["verify"] == [True, True]
        assert f"{path}: every file is complete and unchanged" in found["text"]
    assert said["cores"] >= 1
    assert said["lock"] == "E-LOCK-SYSTEM"
