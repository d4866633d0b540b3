"""TIFFs made by hand, tag by tag."""

from __future__ import annotations

import struct
from pathlib import Path


def plain_tiff(path: Path, tags: dict[int, tuple[int, ...]]) -> Path:
    """A 4 x 4 TIFF of 8-bit grey, save for its `tags`."""
    whole = {256: (4,), 257: (4,), 258: (8,), 259: (1,), 262: (1,), 273: (400,), 277: (1,)}
    whole |= {278: (4,), 279: (400,)} | tags
    entries, far = b"", b""
    for tag in sorted(whole):
        value = struct.pack(f"<{len(whole[tag])}H", *whole[tag])
        if len(value) > 4:
            value, far = struct.pack("<I", 300 + len(far)), far + value
        entries += struct.pack("<HHI", tag, 3, len(whole[tag])) + value.ljust(4, b"\0")
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(whole)) + entries
    path.write_bytes(head.ljust(300, b"\0") + far.ljust(100, b"\0") + bytes(400))
    return path
