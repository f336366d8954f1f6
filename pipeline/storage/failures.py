"""Tells what an error of a store means: the file is missing, access is refused, or another attempt may succeed."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from maskmill.pipeline.storage.web import PrivateAddressError
from maskmill.pipeline.uris import public_text, public_uri

_TRANSIENT_ERRNOS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.EREMOTEIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
# Types are compared by name: these packages may not be installed, and importing them for local data would cost time.
_TRANSIENT_TYPES = {
    "aiohttp.ClientConnectionError",
    "aiohttp.ClientPayloadError",
    "azure.ServiceRequestError",
    "azure.ServiceResponseError",
    "botocore.ConnectionError",
    "botocore.FlexibleChecksumError",
    "botocore.HTTPClientError",
    "botocore.ResponseParserError",
    "http.HTTPException",
    "requests.ConnectionError",
    "requests.Timeout",
}
_PERMISSION_TYPES = {
    "botocore.NoCredentialsError",
    "botocore.PartialCredentialsError",
    "google.DefaultCredentialsError",
}
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_PERMISSION_STATUS = {401, 403, 407}
_MISSING_STATUS = {404, 410}


class ShortReadError(OSError):
    """A transfer ended before all announced bytes had arrived; this counts as transient."""

    def __init__(self, path: str, expected: int, received: int) -> None:
        super().__init__(errno.EIO, f"read {received} of {expected} bytes", public_uri(path))


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes: file systems wrap the error of their client, and either may tell the reason."""
    current: BaseException | None = error
    for _ in range(8):
        if current is None:
            return
        yield current
        current = current.__cause__


def _type_names(error: BaseException) -> set[str]:
    return {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}


def http_status(error: BaseException) -> int | None:
    """Return the status that a server answered with, None where the error does not carry one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        names = ("status", "status_code", "code")
        code = next((found for name in names if (found := getattr(error, name, None)) is not None), None)
    return code if isinstance(code, int) else None


def _s3_code(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def is_missing(error: BaseException) -> bool:
    """Whether ``error`` says that there is no such file or object. A missing bucket is wrong set-up instead."""
    chain = list(error_chain(error))
    if any(_s3_code(each) == "NoSuchBucket" for each in chain):
        return False
    if any(http_status(each) in _MISSING_STATUS for each in chain):
        return True
    # fsspec's web file system raises FileNotFoundError for every failure; only the cause tells which it was.
    has_other_cause = any(_is_transient_itself(each) or _is_permission_itself(each) for each in chain)
    return not has_other_cause and any(isinstance(each, FileNotFoundError) for each in chain)


def _is_permission_itself(error: BaseException) -> bool:
    return (
        isinstance(error, PermissionError)
        or http_status(error) in _PERMISSION_STATUS
        or bool(_type_names(error) & _PERMISSION_TYPES)
    )


def is_permission(error: BaseException) -> bool:
    """Whether ``error`` says that access is refused. A run stops on it: the set-up is wrong, and not a single image."""
    return any(_is_permission_itself(each) for each in error_chain(error))


def _is_transient_itself(error: BaseException) -> bool:
    return (
        isinstance(error, (TimeoutError, ConnectionError, EOFError))
        or (isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS)
        or http_status(error) in _TRANSIENT_STATUS
        or bool(_type_names(error) & _TRANSIENT_TYPES)
    )


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: after time-outs, throttling, resets, short transfers and server errors."""
    if is_permission(error) or is_missing(error):
        return False
    if any(isinstance(each, PrivateAddressError) for each in error_chain(error)):
        return False
    return any(_is_transient_itself(each) for each in error_chain(error))


def public_error(error: Exception) -> Exception:
    """Return ``error``, or one of the same kind without secrets where its text or a cause's text holds a secret."""
    texts = [str(each) for each in error_chain(error)]
    if all(public_text(text) == text for text in texts):
        return error
    message = f"{type(error).__name__}: {public_text(': '.join(filter(None, texts)))}"
    if is_missing(error):
        return FileNotFoundError(message)
    if is_permission(error):
        return PermissionError(message)
    return ConnectionError(message) if is_transient(error) else OSError(message)
