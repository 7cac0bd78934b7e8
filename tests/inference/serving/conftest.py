"""What tests of the server share: a judge behind small limits."""

import pytest

from helpers.serving import served


@pytest.fixture(scope="module")
def server(judge):
    """A service under limits that a test reaches, and a client of it."""
    with served(judge, body_mb=1, batch_mb=2, battles=8, turns=5, characters=2000, queue=20) as (service, client):
        yield service, client


@pytest.fixture
def narrow(server, judge):
    """A function that serves the same engine under other limits."""
    return lambda keys=(), **limits: served(judge, server[0].engine, keys, **limits)
