"""Connections that a helper of the kernel brought along (a transfer of TFTP, the voices of SIP)."""

import socket

from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.node import NodeKernel
from tests.kernel.machine import BACKENDS, Wires, document, ruleset, run, service

FIRST, SECOND = BACKENDS[:2]
ASK = b"\0\1file\0octet\0"
"""Opcode 1 of RFC 1350: please read me `file`."""


def tftp(*backends: str) -> dict:
    return service("tftp", protocol="udp", port=69, backends=[{"address": address} for address in backends])


def test_a_transfer_of_tftp_goes_on_while_something_else_is_applied(wires: Wires, flavour: Flavour) -> None:
    """Its blocks come from another port than the one that was asked, so that no service covers them."""
    kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
    helped = ("PREROUTING", "-p", "udp", "--dport", "69", "-j", "CT", "--helper", "tftp")
    run(f"iptables-{flavour}", "-t", "raw", "-A", *helped)
    kernel.sync(ruleset=ruleset(tftp(FIRST)), document=document(tftp(FIRST)))
    asked = wires.listen_udp(port=69)[FIRST]
    with wires.client.entered():
        client = wires.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.settimeout(30)
    client.sendto(ASK, (wires.service_address, 69))
    _, asker = asked.recvfrom(100)
    with wires.backend.entered():
        transfer = wires.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    transfer.settimeout(30)
    transfer.bind((FIRST, 0))
    transfer.sendto(b"\0\3\0\1a block", asker)
    _, sender = client.recvfrom(100)
    other = service("web", port=8080)
    for services in ((tftp(FIRST), other), (tftp(FIRST, SECOND),), (tftp(SECOND),)):
        kernel.sync(ruleset=ruleset(*services), document=document(*services))
        client.sendto(b"\0\4\0\1", sender)
        assert transfer.recvfrom(100)[0] == b"\0\4\0\1"
