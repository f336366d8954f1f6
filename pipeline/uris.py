"""Takes addresses apart, and decides which parts of an address may be shown."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from fsspec.implementations.local import LocalFileSystem

WEB = ("http", "https")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://[^:]*)?::")
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "hf", "file", "local"}
"""Stores without signed addresses. Their names may contain "?" and "#", so nothing after these is removed."""
_USER_IS_A_CONTAINER = {"abfs", "abfss", "wasb", "wasbs"}
"""In abfs://container@account/path the part before the "@" is no user, unless a password follows it."""
_ADDRESS_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:://|::)[^\s\"'<>`]+")
_USER_INFO = re.compile(r"(?<=://)(?:[^/?#\s]*|[^/?#\s@:]*:(?!:|\d*(?:[/?#]|$))[^@]*)@")
_FIELD = re.compile(r"([?&#])([^=&#?]*)=((?:(?!::)[^&#])*)")
_BARE_QUERY = re.compile(r"\?([A-Za-z0-9+/_.~%-]{24,})(?=$|#|::)")
_SECRET_FIELD = re.compile(
    r"signature|credential|token|secret|passw|pwd|policy|api-?_?key|key-pair|access-?_?key|auth(?!or)|bearer|jwt|hmac"
    r"|session|ticket|hdn(ea|ts|tl)|private|^(sig|sas|key|pass|hm|code|otp)$",
    re.IGNORECASE,
)
_HOOK_PATH = re.compile(
    r"(://hooks\.slack\.com/services/|://[^/?#]+/(?:[^?#]*/)?(?:webhook\w*|hooks?)/)(?![^?#]*\.\w{1,5}(?:[?#]|$))[^?#]+",
    re.IGNORECASE,
)
_BOT_PATH = re.compile(r"/bot\d+:[\w-]+")


def scheme_of(address: str) -> str | None:
    """Return the scheme in lower case ("s3", "https", ...; "file" also for ``file:/path``), None for a plain path."""
    match = _SCHEME.match(address)
    if match:
        return match[1].lower()
    return "file" if address[:6].lower() == "file:/" else None


def is_chained(address: str) -> bool:
    """Whether fsspec would open one address through another, as in ``zip://a.jpg::s3://bucket/b.zip``.

    "::" later in a name, as in ``s3://bucket/a::b.jpg``, chains nothing.
    """
    scheme = scheme_of(address)
    if scheme in _OBJECT_STORES or scheme in WEB:
        return False
    return _CHAIN.match(address) is not None


def is_web(address: str) -> bool:
    """Whether a web server has to be asked for the address."""
    return scheme_of(address) in WEB


def store_of(address: str) -> tuple[str, str]:
    """Return what an address shares with all others of its store: scheme and host, bucket or repository.

    All files of this machine count as one store.
    """
    scheme = scheme_of(address)
    if scheme in (None, "file", "local"):
        return ("file", "")
    _, _, rest = address.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2].lower()
    if scheme in WEB:
        return (str(scheme), authority.removesuffix(":80" if scheme == "http" else ":443"))
    if scheme == "hf":
        parts = rest.split("/")
        repository = parts[:3] if parts[0] in ("datasets", "spaces", "buckets") else parts[:2]
        return ("hf", "/".join(repository).partition("@")[0])
    if scheme in _USER_IS_A_CONTAINER:
        return ("abfs", rest.partition("/")[0])
    return ({"s3a": "s3", "gcs": "gs"}.get(str(scheme), str(scheme)), rest.partition("/")[0])


def without_query(uri: str) -> str:
    """Return a web address without its query and fragment; in every other URI "?" and "#" are part of the name."""
    return uri.partition("#")[0].partition("?")[0] if is_web(uri) else uri


def local_path(address: str) -> str:
    """Return the absolute path that a path or ``file:`` address of this machine means.

    Percent-encodings of a ``file:`` address are decoded, unless only a file of the undecoded name exists.
    The name of another machine in such an address becomes the first folder of a relative path, as in fsspec.
    """
    scheme = scheme_of(address)
    path = address
    if scheme is not None:
        path = address[len(scheme) + 1 :]
        if path.startswith("//"):
            host, slash, rest = path[2:].partition("/")
            path = slash + rest if host.lower() in ("", "localhost") else path[2:]
        decoded = unquote(path, errors="surrogateescape")
        path = path if os.path.lexists(path) and not os.path.lexists(decoded) else decoded
    return LocalFileSystem._strip_protocol(path) if path else "/"


def public_uri(uri: str) -> str:
    """Return an address fit for logs and tables.

    User and password are removed; signatures and tokens in queries, fragments and the paths of webhooks become "...".
    This holds for every part of a chained address. Text that is no address is returned unchanged.
    """
    scheme = scheme_of(uri)
    if scheme is None and not is_chained(uri):
        return uri
    if scheme in _USER_IS_A_CONTAINER and ":" not in uri.partition("://")[2].partition("@")[0]:
        return _without_secret_fields(uri)
    shown = _USER_INFO.sub("", uri)
    return shown if scheme in _OBJECT_STORES else _without_secret_fields(shown)


def _without_secret_fields(uri: str) -> str:
    def blanked(match: re.Match[str]) -> str:
        separator, name, _ = match.groups()
        return f"{separator}{name}=..." if _SECRET_FIELD.search(unquote(name)) else match[0]

    shown = _BARE_QUERY.sub("?...", _FIELD.sub(blanked, uri))
    return _BOT_PATH.sub("/bot...", _HOOK_PATH.sub(r"\1...", shown))


def public_text(text: str) -> str:
    """Return a message with every address in it as `public_uri` shows it."""
    return _ADDRESS_IN_TEXT.sub(lambda match: public_uri(match[0]), text)
