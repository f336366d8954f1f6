"""What can go wrong, in three kinds: the caller's mistake, a bad image, and everything else (which is never hidden)."""

from __future__ import annotations

from maskmill.pipeline.uris import public_text


class UsageError(Exception):
    """Wrong usage or configuration, found before any work starts. The command exits with code 2 and this message.

    Addresses in the message are shown without their secrets.
    """

    def __init__(self, message: str) -> None:
        super().__init__(public_text(message))


class BadImageError(Exception):
    """One image cannot be used, for a reason that lies in its data. Becomes one row of the errors table.

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
        # Exceptions with several arguments need this to cross process borders.
        return (type(self), (self.stage, self.error_class, self.message))
