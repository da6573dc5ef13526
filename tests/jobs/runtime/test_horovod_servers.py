"""Horovod's servers: on which interface, for whom, and until when."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.runtime.horovod_servers import bound_servers, listening_on, loopback_interfaces

pytest.importorskip("horovod", reason="there is no Horovod")
import horovod.spark.runner as spark_runner
from horovod.runner import gloo_run
from horovod.runner.common.util.network import BasicService
from horovod.runner.http.http_server import RendezvousHandler, RendezvousServer


def ask(port: int, source: str) -> bytes:
    """What an address of this host hears that asks for where rank 0 is."""
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0)) as connection:
        connection.sendall(b"GET /global_/0 HTTP/1.0\r\n\r\n")
        try:
            return connection.makefile("rb").read()
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("is_named", [True, False])
def test_servers_listen_on_the_interface_that_is_named(is_named: bool) -> None:
    loopback = loopback_interfaces()
    server = RendezvousServer()
    with listening_on(loopback if is_named else ()):
        server.start()
        service = BasicService("driver", b"key", set(loopback))
    listening = [server._httpd.server_address[0], service._server.server_address[0]]
    server.stop()
    server._httpd.server_close()
    service.shutdown()
    assert listening == ["127.0.0.1" if is_named else "0.0.0.0"] * 2


def test_the_server_at_which_ranks_meet_answers_their_hosts_alone_and_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[Any] = []

    def start_ranks(*_: Any) -> None:
        server = gloo_run.RendezvousServer()
        port = server.start()
        server.init([])
        server._httpd.cache["global_"] = {"0": b"an address"}
        assert server._httpd.RequestHandlerClass is RendezvousHandler, "another one unpickles what it is given"
        heard.extend([port, ask(port, "127.0.0.1"), ask(port, "127.0.0.2")])

    monkeypatch.setattr(spark_runner, "gloo_run", start_ranks)
    driver = SimpleNamespace(
        task_indices=lambda: [0], all_task_addresses=lambda _: {loopback_interfaces()[0]: [("127.0.0.1", 1)]}
    )
    with bound_servers(loopback_interfaces()):
        spark_runner.gloo_run("python", None, None, driver)
    port, of_rank, of_other = heard
    assert of_rank.endswith(b"an address")
    assert of_other == b""
    with pytest.raises(ConnectionRefusedError):
        ask(port, "127.0.0.1")
    assert (gloo_run.RendezvousServer, spark_runner.gloo_run) == (RendezvousServer, start_ranks)
