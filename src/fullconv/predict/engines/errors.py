"""What an engine can't do."""

from fullconv.base.errors import FullconvError


class EngineError(FullconvError):
    """An engine that can't work out this net here; the message says why."""
