"""Where a request comes from, for the audit history."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse

from balancer.workflow.audit import from_source

Address = IPv4Address | IPv6Address
UNIX = "unix"
"""In LBADMIN_TRUSTED_PROXIES: a proxy that calls through a unix socket, and so has no address."""


class SourceMiddleware:
    """Events that are recorded while a request is answered carry its source address."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.proxies = Proxies(settings.LBADMIN_TRUSTED_PROXIES)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        peer = str(request.META.get("REMOTE_ADDR", ""))
        forwarded = str(request.META.get("HTTP_X_FORWARDED_FOR", ""))
        with from_source(self.proxies.find_source(peer=peer, forwarded=forwarded)):
            return self.get_response(request)


class Proxies:
    """The proxies whose word is taken on who called them."""

    def __init__(self, names: list[str]) -> None:
        """Addresses and networks, and the word `unix`."""
        self._unix = UNIX in names
        try:
            self._networks = [ip_network(name) for name in names if name != UNIX]
        except ValueError as error:
            raise ImproperlyConfigured(
                f"LBADMIN_TRUSTED_PROXIES takes addresses, networks and the word {UNIX}: {error}."
            ) from error

    def find_source(self, *, peer: str, forwarded: str) -> str:
        """The address that called; empty where none is known.

        The peer itself, or the right-most address of X-Forwarded-For that is no trusted proxy. What stands
        further left is the caller's own word, and what is no address ends the search at what was found.
        """
        found = _parse(peer)
        if not self._trusts(found, unix=not peer):
            return str(found or "")
        for item in reversed(forwarded.split(",")):
            address = _parse(item)
            if address is None:
                break
            found = address
            if not self._trusts(address, unix=False):
                break
        return str(found or "")

    def _trusts(self, address: Address | None, *, unix: bool) -> bool:
        if address is None:
            return unix and self._unix
        return any(address in network for network in self._networks)


def _parse(text: str) -> Address | None:
    """An address without its port and zone (which is free text); IPv4 where it is written inside IPv6."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
