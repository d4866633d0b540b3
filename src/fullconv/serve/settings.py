"""What to serve, where and for whom, and within which bounds."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN

TOKEN = "FULLCONV_TOKEN"  # the variable that may hold it
MAX_BYTES = 32 << 20
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Limits:
    """Within which bounds requests are answered.

    Attributes:
        queue: how many photos may be in hand: being received, waiting or worked on.
        timeout: seconds that a request may take from its first byte to its answer.
        max_bytes: of an image file.
        batch: how many photos of one size are worked out together at most.
    """

    queue: int = 64
    timeout: float = 30.0
    max_bytes: int = MAX_BYTES
    batch: int = 4


@dataclass(frozen=True)
class ServeSettings:
    """What to serve, where and for whom.

    Attributes:
        model: a model folder, a Hub id, a net, or the file of an export.
        host: an address of this machine.
        port: 0: any that is free.
        token: what clients must know; None: nothing. It is never shown.
        cors: origins whose pages may ask; "*": all.
        engine, precision, device, trust: as those of `predict`.
        reader: reads the images; its bound on pixels holds for every request.
        limits: of requests.
    """

    model: str | Path | FCN
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    cors: tuple[str, ...] = ()
    engine: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    trust: bool = False
    reader: ImageReader = ImageReader(MAX_PIXELS)
    limits: Limits = Limits()


def read_token(file: Path | None) -> str | None:
    """Return the token that a file holds or, without one, the variable FULLCONV_TOKEN.

    Raises:
        FullconvError: the file can't be read, or the token is empty or no printable ASCII, which
            is all that a header carries for certain.
    """
    if file is None:
        where, text = TOKEN, os.environ.get(TOKEN)
        if text is None:
            return None
    else:
        where = str(file)
        try:
            text = file.read_text("ascii", "replace")
        except OSError as error:
            raise FullconvError(f"{file}: can't be read ({error.strerror})") from error
    token = text.strip()
    if not token or any(not "!" <= each <= "~" for each in token):
        raise FullconvError(f"{where}: holds no token; write one line of printable ASCII there")
    return token
