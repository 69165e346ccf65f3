"""Where unicorn is missing, the tests of the engine are missing, too: this one says so."""

from __future__ import annotations

import pytest


def test_unicorn_can_be_imported():
    unicorn = pytest.importorskip("unicorn", reason="unicorn is not installed: the embedded engine is not tested")
    assert unicorn.uc_version()[0] == 2
