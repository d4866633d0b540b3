"""The page of what is read is held to what is read."""

from __future__ import annotations

import os

import pytest
from image_table import PAGE, tables, with_tables


@pytest.mark.skipif(os.name != "posix", reason="of which pipes are")
def test_the_page_tells_what_is_found():
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "python tests/support/image_table.py writes it anew"
    assert all(table in page and "NOT AS STORED" not in table for table in tables().values())
