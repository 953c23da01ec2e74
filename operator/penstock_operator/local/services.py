"""The processes that belong to no deployment: the gateway, and the batch service behind it."""

from penstock_contract.on_behalf import ENVIRONMENT
from penstock_operator.local.command import HOST, Command
from penstock_operator.local.decide import BATCHES, GATEWAY
from penstock_operator.local.home import Home
from penstock_operator.local.supervisor import Recipe


def gateway(home: Home, port: int, batches_port: int, token: str) -> Recipe:
    """Return how the gateway is started.

    Args:
        home: the state folder.
        port: where it listens.
        batches_port: where the batch service listens.
        token: that both share.
    """
    argv = ["penstock-gateway", "--fleet", str(home.fleet), "--tenants", str(home.tenants)]
    argv += ["--host", HOST, "--port", str(port)]
    argv += ["--batches", f"http://{HOST}:{batches_port}"]
    argv += ["--drain-timeout", f"{GATEWAY.drain_timeout:.0f}s"]
    command = Command(tuple(argv), {ENVIRONMENT: token})
    return Recipe(GATEWAY, command, port, role=None, model=None)


def batches(home: Home, port: int, batches_port: int, token: str) -> Recipe:
    """Return how the batch service is started; its arguments are those of `gateway`."""
    argv = ["penstock-batches", "--folder", str(home.batches)]
    argv += ["--host", HOST, "--port", str(batches_port)]
    argv += ["--gateway", f"http://{HOST}:{port}"]
    command = Command(tuple(argv), {ENVIRONMENT: token})
    return Recipe(BATCHES, command, batches_port, role=None, model=None)
