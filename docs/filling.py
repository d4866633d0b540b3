"""Places in the documents that programs fill in: between ``<!-- MARK -->`` and ``<!-- end -->``."""

from __future__ import annotations

END = "<!-- end -->"


def filled(page: str, mark: str, text: str) -> str:
    """Return the text of a page with other text in the place of a mark."""
    start = f"<!-- {mark} -->\n"
    before, _, rest = page.partition(start)
    return f"{before}{start}\n{text}\n{END}{rest.partition(END)[2]}"
