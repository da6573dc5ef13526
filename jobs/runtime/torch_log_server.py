"""The server to which ranks of TorchDistributor send what they print: where it listens, and its end.

PySpark's own listens on all interfaces, and where its shutdown is interrupted, as by a timer that ends ranks without
progress, its threads go on: the driver's process would never end.

Upstream: not reported. Ends with: no release yet; seen in 3.5.6.
"""

import contextlib
import socketserver
import threading
from collections.abc import Iterator


class _Server(socketserver.ThreadingTCPServer):
    is_active = True
    """As long as its handlers, PySpark's, wait for more; closing it waits for their end."""


@contextlib.contextmanager
def bound_log_server() -> Iterator[None]:
    """For a ``TorchDistributor`` of the block: its server at the driver's address, and closed after the block."""
    from pyspark.ml.torch import distributor, log_communication

    handler = log_communication.WriteLogToStdout  # type: ignore[attr-defined]
    servers: list[_Server] = []
    log_server = distributor.LogStreamingServer

    class BoundLogServer(log_server):  # type: ignore[misc,valid-type]
        def start(self, spark_host_address: str = "") -> None:
            try:
                self.server = _Server((spark_host_address, 0), handler)
            except OSError:  # an address by which only others know this host
                self.server = _Server(("", 0), handler)
            servers.append(self.server)
            self.port = self.server.server_address[1]
            # looks for its end ten times a second, which shutdown waits for
            self.serve_thread = threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True)
            self.serve_thread.start()

    distributor.LogStreamingServer = BoundLogServer
    try:
        yield
    finally:
        distributor.LogStreamingServer = log_server
        for server in servers:
            server.is_active = False
            server.shutdown()
            server.server_close()
