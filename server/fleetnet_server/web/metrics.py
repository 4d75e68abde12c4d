"""What Prometheus reads, at /metrics."""

from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from starlette.responses import Response

from fleetnet_server.web.auth import Backend, Gate, Reader
from fleetnet_server.web.collector import Collector
from fleetnet_server.web.looked_up import LookedUp
from fleetnet_server.web.ports import Running
from fleetnet_server.web.problems import documented
from fleetnet_server.web.requests import Lag, Requests

router = APIRouter(tags=["metrics"])

_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """What /metrics answers, for one app."""

    def __init__(self, running: Running, requests: Requests, lag: Lag, gate: Gate):
        self._looked_up = LookedUp(running)
        self._registry = CollectorRegistry(auto_describe=False)
        collector: Any = Collector(running, requests, self._looked_up, lag, gate)
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    async def text(self) -> bytes:
        """Return all of it. Some 1 ms on the event loop, whatever the fleet's size."""
        await self._looked_up.refresh()
        return generate_latest(self._registry)


@router.get(
    "/metrics", response_model=None, response_class=Response,
    responses={
        200: {
            "description": "Prometheus text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **documented(),
    },
)  # fmt: skip
async def metrics(request: Request, running: Backend, holder: Reader) -> Response:
    """Return the metrics in Prometheus' text format."""
    exposition: Exposition = request.app.state.exposition
    return Response(await exposition.text(), media_type=_MEDIA_TYPE)
