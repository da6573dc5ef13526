"""The server for the output of torch's ranks: where it listens, and that it ends."""

import contextlib
import io
import socket
import threading

import pytest
from pyspark.ml.torch import distributor
from pyspark.ml.torch.log_communication import LogStreamingServer

from jobs.runtime.torch_log_server import bound_log_server


@pytest.mark.parametrize(("address", "expected"), [("127.0.0.1", "127.0.0.1"), ("192.0.2.1", "0.0.0.0")])
def test_it_listens_at_the_drivers_address_and_ends_though_its_shutdown_was_interrupted(
    address: str, expected: str
) -> None:
    """192.0.2.1 is no host's; a rank whose Spark worker lives on stays connected."""
    before = threading.active_count()
    with bound_log_server(), contextlib.redirect_stderr(io.StringIO()) as told:
        server = distributor.LogStreamingServer()
        server.start(spark_host_address=address)
        assert server.server.server_address == (expected, server.port)
        with socket.create_connection(("127.0.0.1", server.port)) as rank:
            rank.sendall(b"\x00\x00\x00\x05hello")
            while "hello" not in told.getvalue():
                assert server.serve_thread.is_alive()
            assert threading.active_count() == before + 2
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_it_takes_what_ranks_print_and_is_shut_down_by_pyspark() -> None:
    before = threading.active_count()
    with bound_log_server(), contextlib.redirect_stderr(io.StringIO()) as told:
        server = distributor.LogStreamingServer()
        server.start(spark_host_address="127.0.0.1")
        rank = distributor.LogStreamingClient("127.0.0.1", server.port)
        rank.send("step 5")
        while "step 5\n" not in told.getvalue():
            assert server.serve_thread.is_alive()
        server.shutdown()
        assert (server.server, server.serve_thread) == (None, None)
    rank.close()
    assert threading.active_count() == before
    assert distributor.LogStreamingServer is LogStreamingServer
