"""Horovod's servers listen on the interface that is named, answer the hosts of the ranks alone, and are closed after.

Horovod 0.28.1 listens on all interfaces, whatever ``nics`` says; its server at which the ranks meet asks for no key.

Upstream: not reported; CVE-2024-10190 and CVE-2026-31234 are about other users of the same server, none of them ours.
Ends with: no release yet; 0.28.1 is the last one.
"""

import contextlib
import socket
from collections.abc import Callable, Collection, Iterator
from typing import Any

import psutil


def addresses_of(interface: str) -> list[str]:
    """The IPv4 addresses of a network interface of this host, none where there is no such interface."""
    return [each.address for each in psutil.net_if_addrs().get(interface, []) if each.family == socket.AF_INET]


def loopback_interfaces() -> tuple[str, ...]:
    """The interface that other hosts do not reach, ``lo`` on Linux; empty on a host without one."""
    names = (name for name in psutil.net_if_addrs() if any(each.startswith("127.") for each in addresses_of(name)))
    return tuple(names)[:1]


@contextlib.contextmanager
def bound_servers(interfaces: Collection[str]) -> Iterator[None]:
    """The servers of a ``horovod.spark.run`` in the block: on the interface, where one is named, and closed after it.

    With several interfaces, or none, they listen on all, as Horovod has it. The server at which the ranks meet answers
    the hosts of the ranks alone; its thread and port do not outlive the block.
    """
    import horovod.spark.runner as spark_runner
    from horovod.runner import gloo_run

    make_server, make_mapper, start_ranks = gloo_run.RendezvousServer, spark_runner._make_mapper, spark_runner.gloo_run
    known: set[str] = set()
    servers: list[Any] = []

    class Server(make_server):  # type: ignore[misc,valid-type]
        def start(self, *values: Any) -> Any:
            servers.append(self)
            port = super().start(*values)
            # what another host may put there before this line, Horovod's init removes
            self._httpd.verify_request = lambda _, address: address[0] in known
            return port

    def start_known(executable: Any, settings: Any, nics: Any, driver: Any, *values: Any) -> None:
        for index in driver.task_indices():
            of_task = driver.all_task_addresses(index).values()
            known.update(address for addresses in of_task for address, _ in addresses)
        start_ranks(executable, settings, nics, driver, *values)

    def make_bound(*values: Any) -> Callable[[int, Any], Iterator[Any]]:
        work = make_mapper(*values)

        def bound(index: int, rows: Any) -> Iterator[Any]:  # in Spark's worker, which serves other tasks too
            with listening_on(interfaces):
                yield from work(index, rows)

        return bound

    gloo_run.RendezvousServer, spark_runner._make_mapper, spark_runner.gloo_run = Server, make_bound, start_known
    try:
        with listening_on(interfaces):
            yield
    finally:
        gloo_run.RendezvousServer, spark_runner._make_mapper = make_server, make_mapper
        spark_runner.gloo_run = start_ranks
        for server in servers:
            if server._httpd:  # none where no port was free
                # Horovod's stop ends the thread and leaves the socket open
                server.stop()
                server._httpd.server_close()


@contextlib.contextmanager
def listening_on(interfaces: Collection[str]) -> Iterator[None]:
    """Have the services that Horovod makes in this process listen on the interface, where exactly one is named."""
    from horovod.runner.common.util import network
    from horovod.runner.http import http_server

    addresses = addresses_of(*interfaces) if len(interfaces) == 1 else []
    find_port = http_server.find_port

    def find_bound(make: Callable[[tuple[str, int]], Any]) -> Any:
        # Horovod asks for ("", port): all interfaces
        return find_port(lambda address: make((addresses[0], address[1])))

    # each of the two modules has imported the function under a name of its own
    network.find_port = http_server.find_port = find_bound if addresses else find_port
    try:
        yield
    finally:
        network.find_port = http_server.find_port = find_port
