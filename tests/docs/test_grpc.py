"""The page on gRPC: its rules, its routes and its client, with a real Envoy before a gRPC server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc.aio
import yaml
from end_to_end.test_grpc_denials import STATUSES

from authz_service.core.reasons import DENIALS
from support.console import reader
from support.documents import blocks, code, page, table, yaml_blocks
from support.envoy import loopback
from support.grpc_upstream import listening
from support.tutorial_bootstrap import host_of, protected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PAGE = "how-to/grpc"
RULES, CLUSTERS, ROUTES, *_ = (yaml.safe_load(each) for each in yaml_blocks(PAGE))
(CLIENT,) = blocks(page("how-to/grpc"), title="client.py")
(SHOWN,) = blocks(page("how-to/grpc"), "console")
CHANNEL = 'grpc.secure_channel("api.example.com:443", grpc.ssl_channel_credentials())'


@asynccontextmanager
async def orders() -> AsyncIterator[int]:
    """A server with the page's service."""

    async def get(data: bytes, _context: object) -> bytes:
        return data

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(get)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.v1.Orders", {"Get": handler}),))
    async with listening(server) as port:
        yield port


async def test_the_client_of_the_page_prints_the_answer_or_the_status_and_the_challenge(tmp_path: Path) -> None:
    async with orders() as port:

        def change(document: dict[str, Any]) -> None:
            (cluster,) = CLUSTERS["clusters"]
            cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = loopback(port)
            document["static_resources"]["clusters"][1:] = [cluster]
            host_of(document)["routes"] = ROUTES["routes"]

        async with protected(RULES, tmp_path, change) as (envoy, provider):
            with reader(tmp_path) as running:
                here = CLIENT.text.replace(CHANNEL, f'grpc.insecure_channel("127.0.0.1:{envoy.ports["http"]}")')
                (tmp_path / "home" / "client.py").write_text(here)
                token = tmp_path / "home" / "token"
                token.write_text(provider.access_token(scope="profile"))
                await running.follow(SHOWN)
                token.write_text(provider.access_token(scope="orders.read"))
                assert await running.run("python3 client.py") == "b''\n"


def test_the_table_has_the_status_of_every_denial() -> None:
    rows = {status: code(name)[0] for status, name, _ in table(page(PAGE), "denial") if status.isdecimal()}
    assert rows == {str(DENIALS[reason].status): status.name for reason, status in STATUSES.items()}
