"""AWS as moto has it: a server of its own, spoken to by boto3."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from moto.server import ThreadedMotoServer

REGION = "eu-central-1"


@contextmanager
def moto() -> Iterator[str]:
    """Its endpoint, with credentials in the environment that it takes."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "testing")
            patch.setenv("AWS_DEFAULT_REGION", REGION)
            yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    finally:
        server.stop()
