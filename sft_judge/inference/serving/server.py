"""
Life of the server: bind the port, start the engine, answer requests, until it is stopped or the engine dies.

On SIGTERM or SIGINT the server accepts no new connections, finishes the requests in progress, and exits with status 0.
If the engine dies, `/health` and all requests return 503 for a few seconds, so that a load balancer notices, and then
the process exits with status 1, so that a supervisor can restart it.
"""

import asyncio
import copy
import json
import logging
import signal
import socket
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from sft_judge.core.errors import InputError
from sft_judge.inference.serving.app import build_app
from sft_judge.inference.serving.async_engine import AsyncVllm, open_client, vllm_arguments
from sft_judge.inference.serving.auth import Keys, is_loopback
from sft_judge.inference.serving.errors import HttpError
from sft_judge.inference.serving.limits import Limits, RewardSettings
from sft_judge.inference.serving.openai_routes import openai_app
from sft_judge.inference.serving.schema import EXAMPLE
from sft_judge.inference.serving.service import Service
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import dtype_of, load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt

logger = logging.getLogger(__name__)

BACKLOG = 2048  # connections that wait to be accepted, as in uvicorn
UNHEALTHY_SECONDS = 5  # time for which a server without its engine still answers with 503
SECONDS_BETWEEN_LOOKS = 0.5  # between checks of the engine


@dataclass(frozen=True)
class Settings:
    """Store the settings of `sft-judge serve`; `vllm` are flags for vLLM."""

    model: str
    name: str | None
    host: str
    port: int
    keys: list[str]
    dtype: str
    with_openai: bool
    log_requests: bool
    limits: Limits
    vllm: list[str]
    allowed_hosts: list[str] | None = None
    root_path: str = ""
    ssl_keyfile: Path | None = None
    ssl_certfile: Path | None = None
    rewards: RewardSettings = RewardSettings()


def serve(settings: Settings) -> bool:
    """Serve until stopped. Return True if the engine was alive to the end."""
    import uvloop

    spec = read_spec(settings.model)
    prompt = JudgePrompt.of(load_tokenizer(settings.model), spec)
    name = settings.name or Path(settings.model).resolve().name
    with bound(settings.host, settings.port) as listener:
        dtype = dtype_of(settings.model, settings.dtype)
        args = vllm_arguments(settings.model, spec, dtype, name, settings.vllm, settings.with_openai)
        return uvloop.run(_serve(settings, name, spec, prompt, args, listener))


async def _serve(settings: Settings, name: str, spec, prompt: JudgePrompt, args, listener: socket.socket) -> bool:
    from vllm.v1.metrics.prometheus import get_prometheus_registry

    async with open_client(args) as client:
        service = Service(name, AsyncVllm(client, spec), prompt, spec, settings.limits)
        await _judge_example(service, settings.model)
        others = await openai_app(client, args) if settings.with_openai else None
        registries, hosts = (get_prometheus_registry(),), allowed_hosts(settings)
        app = build_app(service, Keys(settings.keys), registries, others, hosts, settings.rewards)
        options = {"root_path": settings.root_path}
        if settings.ssl_certfile:
            options |= {"ssl_certfile": str(settings.ssl_certfile), "ssl_keyfile": str(settings.ssl_keyfile)}
        server = uvicorn_server(app, settings.limits, settings.log_requests, **options)

        def stop():
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        watch = asyncio.create_task(_watch(service.engine, stop))
        await server.serve(sockets=[listener])
        watch.cancel()
        return service.engine.alive


async def _judge_example(service: Service, model: str) -> None:
    """Judge one battle before serving: an engine that cannot run a judge may start, and die on the first request."""
    try:
        await service.answer(json.dumps(EXAMPLE).encode())
    except HttpError as error:
        raise InputError(f"{model}: {error} It failed on a test battle; see vLLM's messages above.") from error


def allowed_hosts(settings: Settings) -> frozenset[str] | None:
    """
    Return the host names that requests may address, or None for any.

    A server that only this machine can reach and that has no key accepts its own names and those of --allowed-hosts.
    """
    if settings.allowed_hosts is None and (settings.keys or not is_loopback(settings.host)):
        return None
    names = ("localhost", "127.0.0.1", "::1", settings.host, *(settings.allowed_hosts or ()))
    return frozenset(map(str.lower, names))


def uvicorn_server(app, limits: Limits, log_requests: bool, **options):
    """
    Create uvicorn's server, without its signal handling, which raises the signals again at the end.

    Args:
        app: the ASGI app, a `Guard`.
        limits: the server's limits.
        log_requests: write an access log.
        **options: further options of `uvicorn.Config`, such as `root_path`.
    """
    import uvicorn

    class Server(uvicorn.Server):
        def capture_signals(self):
            return nullcontext()

        async def startup(self, sockets=None):
            await super().startup(sockets)
            logger.info(f"serving at {address(sockets[0], 'https' if self.config.is_ssl else 'http')}")

        async def shutdown(self, sockets=None):
            app.stopping.set()
            await super().shutdown(sockets)

    log_config = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    log_config["handlers"]["access"]["stream"] = "ext://sys.stderr"  # standard output has only the address
    config = uvicorn.Config(
        app,
        log_level="info" if log_requests else "warning",
        http="h11",  # limits the size of a request's headers; httptools would store gigabytes, even without a key
        access_log=log_requests,
        log_config=log_config,
        lifespan="off",
        ws="none",  # a request to switch to WebSocket is answered as any other
        server_header=False,
        timeout_graceful_shutdown=limits.seconds,
        **options,
    )
    return Server(config)


async def _watch(engine: AsyncVllm, stop) -> None:
    while engine.alive:
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
    await asyncio.sleep(UNHEALTHY_SECONDS)
    stop()


def bound(host: str, port: int) -> socket.socket:
    """
    Return a socket that listens on the port. Raise `InputError` if this fails.

    It listens before the engine starts, so that a second server on this port fails at once. Early clients wait.

    Args:
        host: address.
        port: port; 0 for any free port.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        raise InputError(f"{host}:{port}: {error.strerror or error}. Give another --host or --port.") from error
    return listener


def address(listener: socket.socket, scheme: str = "http") -> str:
    """
    Return the URL of the server.

    Args:
        listener: its socket.
        scheme: `http` or `https`.
    """
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
