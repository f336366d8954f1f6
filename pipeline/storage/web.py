"""Makes the sessions for web servers: storage options go to one server only, and private addresses can be refused."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from maskmill.pipeline.uris import store_of

if TYPE_CHECKING:
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, ClientSession

CONNECT_S = 10.0
"""Time for a server to accept a connection; afterwards the attempt has failed."""
SILENCE_S = 60.0
"""Longest time between two bytes of an answer; afterwards the attempt has failed."""
ENTRY_S = 300.0
"""Time for the whole transfer of a file that a list names; afterwards the attempt has failed."""
_PLAIN_HEADERS = {"accept", "accept-encoding", "accept-language", "host", "if-range", "range", "user-agent"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddressError(OSError):
    """A list named a web server at a private, loopback or link-local address."""

    def __init__(self) -> None:
        # The text names no address: aiohttp passes this error on only if the errors of all addresses of a host agree.
        super().__init__(errno.EACCES, "the server lies at a private, loopback or link-local address")


def is_public(address: str) -> bool:
    """Whether an IP address is public; an IPv6 address that carries an IPv4 address is judged by that one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


@dataclass(frozen=True, slots=True)
class WebClient:
    """Makes the sessions of fsspec's web file system; equal clients share a session.

    origin: the server (see `uris.store_of`) that gets the headers, cookies and passwords of the storage options; a
    redirect to another server goes without them. named_by_a_list: private addresses are refused at every connection,
    so that no spelling, name server or redirect leads there. homes: hosts that may have private addresses all the same.
    """

    origin: tuple[str, str] | None = None
    named_by_a_list: bool = False
    homes: tuple[str, ...] = ()

    @classmethod
    def of(cls, uri: str, has_options: bool) -> WebClient:
        """The client for an address that the user typed."""
        return cls(origin=store_of(uri) if has_options else None)

    @classmethod
    def for_entry(cls, uri: str, has_options: bool, homes: tuple[str, ...]) -> WebClient:
        """The client for an address that a list names."""
        return cls(origin=store_of(uri) if has_options else None, named_by_a_list=True, homes=homes)

    async def __call__(self, **settings: Any) -> ClientSession:
        """Return a session; ``settings`` are aiohttp's."""
        import aiohttp  # imported late: most runs ask no web server

        total_s = ENTRY_S if self.named_by_a_list else None
        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        settings = {"timeout": timeout, **settings}
        if self.named_by_a_list:
            settings["connector"] = aiohttp.TCPConnector(socket_factory=_Sockets(await self._home_addresses()))
        if self.origin is not None:
            settings["middlewares"] = (self._keep_secrets_at_home,)
        return aiohttp.ClientSession(**settings)

    async def _keep_secrets_at_home(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        if store_of(str(request.url)) != self.origin:
            for name in [name for name in request.headers if name.lower() not in _PLAIN_HEADERS]:
                del request.headers[name]
        return await handler(request)

    async def _home_addresses(self) -> frozenset[str]:
        loop = asyncio.get_running_loop()
        found: set[str] = set()
        for host in self.homes:
            try:
                found |= {str(info[4][0]) for info in await loop.getaddrinfo(host, None)}
            except OSError:
                continue  # a host without an address holds no entry either
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class _Sockets:
    """Opens sockets to public addresses and to ``homes`` only."""

    homes: frozenset[str]

    def __call__(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if not (address[0] in self.homes or is_public(address[0])):
            raise PrivateAddressError
        return socket.socket(family=family, type=kind, proto=protocol)


def host_of(uri: str) -> str | None:
    """Return the host of a web address, None where the address has none or cannot be parsed."""
    try:
        return urlsplit(uri).hostname
    except ValueError:
        return None
