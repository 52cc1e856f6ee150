"""Assert that a block is refused with the code of its mistake."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clipfeat.base.errors import ClipfeatError


@contextmanager
def refuses(
    code: str, *names: str, kind: type[ClipfeatError] = ClipfeatError
) -> Iterator[pytest.ExceptionInfo[ClipfeatError]]:
    """Assert that the block raises `kind` with `code`, and that its text has all of `names`."""
    with pytest.raises(kind) as refused:
        yield refused
    assert refused.value.code == code, refused.value
    for name in names:
        assert name in str(refused.value), refused.value
