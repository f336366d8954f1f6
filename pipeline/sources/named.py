"""Reads the images that a list names. A list is not trusted, and the failure of one entry does not affect the others.

A list is a manifest or a table with a column of addresses. The store that it lies in, and the stores that the user
adds with --own-store, are its own stores: an outage there ends the run, as for every other input. In other stores every
failure is an error of the one image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus

from fsspec import available_protocols

from maskmill.pipeline.errors import BadImageError, UsageError
from maskmill.pipeline.sources.files import Fetched, fetch, read_file
from maskmill.pipeline.sources.hosts import Hosts
from maskmill.pipeline.sources.shard import ReadLimits
from maskmill.pipeline.storage.files import (
    ATTEMPTS,
    StorageOptions,
    error_chain,
    http_status,
    is_missing,
    is_permission,
    is_transient,
    open_filesystem,
    public_error,
    try_again,
)
from maskmill.pipeline.storage.web import PrivateAddressError, WebClient, host_of
from maskmill.pipeline.uris import is_chained, is_web, public_text, scheme_of, store_of

SCHEMES = ("file", "local", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf")
"""Schemes that a list may name. fsspec knows many more, some of which run code or open shells on other machines."""
PATIENCE_S = 60.0
"""No attempt at an entry begins later than this after the first attempt at it."""

_HOSTS = Hosts()


@dataclass(frozen=True, kw_only=True)
class NamedReader:
    """Reads the entries of the list at ``location``. storage_options: used for the list's own stores only."""

    location: str
    storage_options: StorageOptions | None
    limits: ReadLimits

    @cached_property
    def _own_stores(self) -> frozenset[tuple[str, str]]:
        return frozenset(map(store_of, (self.location, *self.limits.own_stores)))

    @cached_property
    def _own_hosts(self) -> tuple[str, ...]:
        found = (host_of(uri) for uri in (self.location, *self.limits.own_stores) if is_web(uri))
        return tuple(host for host in found if host)

    def read(self, uri: str) -> Fetched:
        """Read one file by its address or absolute path.

        Errors of the list's own stores are raised, as `fetch` raises them, except what a web server refuses: that is an
        error of the image.
        """
        if refusal := self._refusal(uri):
            return Fetched(error=refusal)
        is_own = store_of(uri) in self._own_stores
        if not is_web(uri):
            if is_own:
                return fetch(uri, self.storage_options, self.limits)
            return self._tolerant(uri, None, None, is_own=False)
        options = self.storage_options if is_own else None
        if self.limits.allow_private:
            client = WebClient.of(uri, bool(options))
        else:
            client = WebClient.for_entry(uri, bool(options), self._own_hosts)
        return self._tolerant(uri, options, client, is_own=is_own)

    def _refusal(self, uri: str) -> BadImageError | None:
        """Return why the list may not name this address, None if it may. Nothing is opened or looked up for this."""
        if is_chained(uri):
            return _forbidden("an address inside of another (with ::) is not opened")
        if uri[:5].lower() == "data:":
            return _forbidden("images inside of the list itself (data:) are not read")
        scheme = scheme_of(uri) or "file"
        if scheme not in SCHEMES:
            if scheme in available_protocols():
                return _forbidden(f"a list may not name {scheme}:// addresses, only {', '.join(SCHEMES)}")
            return BadImageError("read", "bad_uri", f"there is no store of the kind {scheme}://")
        is_local = scheme in ("file", "local")
        if is_local and (host := _other_machine(uri)):
            return BadImageError("read", "bad_uri", f"it names the machine {host}; file:///path is of this one")
        if is_local and ("file", "") not in self._own_stores and not self.limits.allow_local:
            return _forbidden("a file of this machine, named by a list that lies elsewhere; see --allow-local")
        if is_web(uri) and not host_of(uri):
            return BadImageError("read", "bad_uri", "the web address cannot be understood")
        return None

    def _tolerant(self, uri: str, options: StorageOptions | None, client: WebClient | None, *, is_own: bool) -> Fetched:
        store = store_of(uri)
        attempts = ATTEMPTS if is_own else _HOSTS.attempts(store, ATTEMPTS)
        if not attempts:
            return Fetched(error=BadImageError("read", "unreachable", f"{store[1]} has not answered for some time"))
        try:
            fs, path = open_filesystem(uri, options, client)
            fetched = try_again(lambda: read_file(fs, path, self.limits), attempts=attempts, patience_s=PATIENCE_S)
        except Exception as error:
            shown = public_error(error) if is_own and is_transient(error) else None
            if shown is error or isinstance(error, MemoryError):
                raise
            if shown is not None:
                raise shown from None
            if is_transient(error):
                _HOSTS.failed(store)
            else:
                _HOSTS.answered(store)
            return Fetched(error=error_of(error))
        _HOSTS.answered(store)
        return fetched


def _other_machine(uri: str) -> str | None:
    host = uri.partition("://")[2].partition("/")[0]
    return None if host.lower() in ("", "localhost") or uri.startswith("/") else host


def _forbidden(reason: str) -> BadImageError:
    return BadImageError("read", "forbidden_uri", reason)


def error_of(error: Exception) -> BadImageError:
    """Return the error of an image for an exception: its class and, in the message, the true cause."""
    chain = list(error_chain(error))
    status = next((found for each in chain if (found := http_status(each))), None)
    if status is not None:
        return BadImageError("read", _status_class(status), f"the server answered {status} ({_phrase(status)})")
    if any(isinstance(each, PrivateAddressError) for each in chain):
        return _forbidden("the web server lies at a private, loopback or link-local address; see --allow-private")
    if elsewhere := next((each for each in chain if _is_named(each, "NonHttpUrlClientError")), None):
        return _forbidden(f"it leads to what is no web address: {elsewhere}")
    if any(_is_named(each, "TooManyRedirects") for each in chain):
        return BadImageError("read", "rejected", "the server redirects without end")
    for applies, error_class in _CLASSES:
        if applies(error):
            return BadImageError("read", error_class, _cause(chain))
    return BadImageError("read", "unreadable", _cause(chain))


def _status_class(status: int) -> str:
    known = {401: "forbidden", 403: "forbidden", 407: "forbidden", 404: "not_found", 410: "not_found"}
    if status >= 500:
        return "server_error"
    return {**known, 429: "rate_limited"}.get(status, "rejected")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no standard status"


def _cause(chain: list[BaseException]) -> str:
    # fsspec raises FileNotFoundError with the bare address for every failure; the error inside tells the reason.
    telling = [each for each in chain if str(each) and not isinstance(each, FileNotFoundError)] or chain
    first = telling[0]
    text = str(first) or ("no answer in time" if isinstance(first, TimeoutError) else type(first).__name__)
    return public_text(text)


def _holds(*kinds: type[BaseException]) -> Callable[[Exception], bool]:
    return lambda error: any(isinstance(each, kinds) for each in error_chain(error))


def _is_named(error: BaseException, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _is_bad_parameter(error: Exception) -> bool:
    return any(_is_named(each, "ParamValidationError") for each in error_chain(error))


_CLASSES: tuple[tuple[Callable[[Exception], bool], str], ...] = (
    (_holds(ImportError), "missing_package"),
    (is_permission, "forbidden"),
    (is_transient, "unreachable"),
    (_holds(ValueError), "bad_uri"),
    (_is_bad_parameter, "bad_uri"),
    (_holds(UsageError), "bad_uri"),
    (is_missing, "not_found"),
)
