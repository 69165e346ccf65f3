"""The fuzz harnesses of the folder `fuzz`, for tests; they are no part of the package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture
def secure_boot():
    """Executions of the property, counted from 0."""
    from fuzz.openssl import NoLibCrypto
    from fuzz.secure_boot import SecureBoot

    try:
        return SecureBoot()
    except NoLibCrypto as error:
        pytest.skip(str(error))
