"""What was exported of a model, noted in its folder."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from fullconv.base.files import write_json
from fullconv.export.metadata import ExportMetadata

EXPORTS = "exports.json"


def note(folder: Path, form: str, file: Path, about: ExportMetadata, size: int) -> None:
    """Note an export in its model's folder, in place of one of the same kind.

    A folder that can't be written, and a model of the Hub, which has none, get no note. A file that
    is damaged is replaced.

    Args:
        folder: of the model.
        form: name of the format.
        file: that was written.
        about: what it says of itself.
        size: in bytes.
    """
    if not folder.is_dir():
        return
    known: dict[str, object] = {}
    with suppress(OSError, ValueError):
        read = json.loads((folder / EXPORTS).read_text(encoding="utf-8"))
        known = read if isinstance(read, dict) else {}
    kind = f"{form} {about.precision} {about.output}"
    verification = about.verification.model_dump(mode="json") if about.verification else None
    known[kind] = {
        "file": file.name,
        "bytes": size,
        "float_layers": list(about.float_layers),
        "verification": verification,
    }
    with suppress(OSError):
        write_json(folder / EXPORTS, known)
