"""The two errors with a meaning to the job: wrong usage and a bad image. Any other exception ends the run visibly."""

from __future__ import annotations

from maskmill.pipeline.uris import public_text


class UsageError(Exception):
    """Wrong usage or configuration, found before any work starts. The command exits with code 2 and this message.

    Addresses in the message are shown without their secrets.
    """

    def __init__(self, message: str) -> None:
        super().__init__(public_text(message))


class BadImageError(Exception):
    """An image cannot be used because of its data. The error becomes one row of the errors table.

    stage: "read", "decode", "propose", "classify" or "encode".
    error_class: a short stable word to group by, such as "truncated" or "not_an_image".
    message: addresses in it are shown without their secrets.
    """

    def __init__(self, stage: str, error_class: str, message: str) -> None:
        shown = public_text(message)
        super().__init__(shown)
        self.stage = stage
        self.error_class = error_class
        self.message = shown

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, str, str]]:
        # Unpickling calls the class with ``args``, which holds only the message, so the three arguments are given here.
        return (type(self), (self.stage, self.error_class, self.message))
