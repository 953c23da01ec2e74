"""Which network interface has an address: what connects processes wants a name, not an address."""

import fcntl
import ipaddress
import socket
import struct
import sys
from pathlib import Path
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOPBACK: Final = "lo" if sys.platform == "linux" else "lo0"

_SIOCGIFADDR: Final = 0x8915  # <bits/ioctls.h>
_IPV6: Final = Path("/proc/net/if_inet6")


def interface_of(address: str) -> str:
    """Return the name of the interface that has an IP address.

    Raises:
        ValueError: none has it.
    """
    if is_loopback(address):
        return LOOPBACK
    wanted = _parsed(address)
    found = _ipv6() if wanted.version == 6 else _ipv4()
    if wanted not in found:
        raise ValueError(f"no network interface has the address {address}")
    return found[wanted]


def is_loopback(address: str) -> bool:
    """Return whether an IP address never leaves this machine."""
    return _parsed(address).is_loopback


def _parsed(address: str) -> Address:
    return ipaddress.ip_address(address.partition("%")[0])


def _ipv4() -> dict[Address, str]:
    """Return the interfaces by their first addresses (netdevice(7))."""
    found: dict[Address, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue  # it has none
            found[ipaddress.ip_address(answer[20:24])] = name
    return found


def _ipv6() -> dict[Address, str]:
    """Return the interfaces by their addresses (proc(5))."""
    lines = [line.split() for line in _IPV6.read_text().splitlines()] if _IPV6.exists() else []
    return {ipaddress.ip_address(bytes.fromhex(line[0])): line[-1] for line in lines}
