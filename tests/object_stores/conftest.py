"""What the tests of this folder share: the fault proxy before the session's real server."""

import pytest
from fault_proxy import FaultProxy


@pytest.fixture
def proxy(s3_server):
    with FaultProxy(s3_server.endpoint_url, delay_s=0.3) as proxy:
        yield proxy
