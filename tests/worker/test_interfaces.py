"""Network interfaces are found by the addresses that they have."""

import socket

import pytest

from penstock_worker.interfaces import LOOPBACK, interface_of


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_has_its_addresses(address: str) -> None:
    assert interface_of(address) == LOOPBACK


def test_an_address_of_this_machine_belongs_to_one_of_its_interfaces() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))  # nothing is sent: the kernel chooses an address
        except OSError:
            pytest.skip("this machine is on no network")
        address = asked.getsockname()[0]
    assert interface_of(address) in [name for _, name in socket.if_nameindex()]


@pytest.mark.parametrize("address", ["203.0.113.9", "2001:db8::9"])
def test_an_address_that_is_somebody_elses_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=f"no network interface has the address {address}"):
        interface_of(address)
