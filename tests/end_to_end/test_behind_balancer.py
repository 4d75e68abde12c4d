"""Devices behind deploy/compose/nginx.conf, run by a real nginx: TLS and DTLS, and its restart.

Three nodes of one store want PostgreSQL; here one server stands in the place of all three, which
is the same to a device and to the balancer.
"""

from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="its packages are in the extra `test`")

from end_to_end.fleet import Fleet
from end_to_end.store_check import faults_of
from end_to_end.test_links import start, until_link
from rules.manifests import Balancer
from rules.test_deploy import program


async def test_both_links_pass_and_come_back(fleet: Fleet, tmp_path: Path) -> None:
    nginx = program("nginx")
    ports = [fleet.tls[1]] * 3, [fleet.dtls[1]] * 3
    balancer = Balancer(nginx, tmp_path, *ports)
    with balancer:
        devices = await start(fleet, tls_port=balancer.port, dtls_port=balancer.port)
        await until_link(devices, "dtls")
        connects = [device.counter("connects") for device in devices]
    # The flows of the nginx that ended are other ones for the server: DTLS shakes hands again.
    with balancer:
        for device in devices:
            await device.until_acknowledged(30)
        again = [device.counter("connects") for device in devices]
        assert all(now > before for now, before in zip(again, connects, strict=True))
        sent = await fleet.finish()
    assert faults_of(fleet.store, sent) == []


async def test_tls_alone(fleet: Fleet, tmp_path: Path) -> None:
    balancer = Balancer(program("nginx"), tmp_path, [fleet.tls[1]] * 3, [1] * 3)
    with balancer:
        devices = await start(fleet, transport="tls", tls_port=balancer.port)
        await until_link(devices, "tls")
        sent = await fleet.finish()
    assert faults_of(fleet.store, sent) == []
