"""Every format, how it is written, and who reads it."""

from functools import partial

from .keyed import (
    H5PY,
    LMDB,
    Hdf5,
    Lmdb,
    LmdbReadahead,
    Npy,
    Npz,
    write_hdf5,
    write_lmdb,
    write_npy,
    write_npz,
)
from .ours import (
    Decompressor,
    Ours,
    OursChannelsFirst,
    OursOut,
    OursUnverified,
    write_ours,
)
from .reader import Format
from .streams import (
    LITDATA,
    MOSAICML,
    WEBDATASET,
    LitData,
    Mds,
    WebDataset,
    write_litdata,
    write_mds,
    write_webdataset,
)
from .zarr_readers import TensorStore, ZarrPython, Zarrs

RAW, ZSTD, NPZ = "raw", "zstd", "npz float32"
_ZARR = (ZarrPython, Zarrs, TensorStore)

FORMATS = (
    Format(RAW, partial(write_ours, "none"), (Ours, OursOut, OursUnverified, *_ZARR)),
    Format(
        ZSTD, partial(write_ours, "zstd"), (Ours, OursOut, OursChannelsFirst, *_ZARR, Decompressor)
    ),
    Format("LMDB", write_lmdb, (Lmdb,), LMDB),
    # Files of its own: a process may open an LMDB file only once.
    Format("LMDB 2", write_lmdb, (LmdbReadahead,), LMDB),
    Format("HDF5", write_hdf5, (Hdf5,), H5PY),
    Format("npy", write_npy, (Npy,)),
    Format(NPZ, write_npz, (Npz,)),
    Format("tar", write_webdataset, (WebDataset,), WEBDATASET),
    Format("LitData", write_litdata, (LitData,), LITDATA),
    Format("MDS", write_mds, (Mds,), MOSAICML),
)
