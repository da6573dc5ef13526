"""A real server of S3's protocol in this process (moto's), which can be told to answer 503 for a while."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

REGION, BUCKET = "us-east-1", "shop"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class S3Server:
    """Serves from memory.

    Attributes
    ----------
    refuses : so many requests still get 503
    away_until : so does each until then, by ``time.monotonic``
    on_request : called with the method and path of each
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.refuses, self.n_refused, self.away_until = 0, 0, 0.0
        self.on_request: Callable[[str, str], None] = lambda *_: None
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        self.on_request(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if self.refuses > 0 or time.monotonic() < self.away_until:
            self.refuses, self.n_refused = self.refuses - 1, self.n_refused + 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(SLOW_DOWN)))])
            return [SLOW_DOWN]
        answer: Iterable[bytes] = self._app(environ, start)
        return answer

    @contextmanager
    def running(self) -> Iterator["S3Server"]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """The server with a bucket, named by the environment as a user names one."""
    pytest.importorskip("moto", reason="the versions of Databricks Runtime have no moto")
    with S3Server().running() as server, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", server.url)
        environment.setenv("AWS_ACCESS_KEY_ID", "key-of-the-test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
        environment.setenv("AWS_REGION", REGION)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().makedirs(BUCKET, exist_ok=True)  # moto's memory is of the process
        yield server
        s3fs.S3FileSystem.clear_instance_cache()
