"""A folder that appears when all of its files are written."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..base.errors import UsageError
from ..base.files import require_folder, temporary_name


@contextmanager
def complete_folder(folder: Path) -> Generator[Path]:
    """Yield another folder to write into, which gets the final name at the end, or is removed.

    Raises UsageError if the folder is there and not empty (E-DEMO-FOLDER), and as `require_folder`
    does. An OSError, such as of a full disk, gets the name of the folder that the user knows.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} exists and is not empty; delete it or choose another DIR",
            code="E-DEMO-FOLDER",
        )
    require_folder(folder, "DIR")
    final = folder.resolve()
    unfinished = final.with_name(temporary_name(f".{final.name}"))
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.replace(final)
    except OSError as error:
        error.filename, error.filename2 = str(folder), None
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
