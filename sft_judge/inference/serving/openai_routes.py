"""vLLM's own routes, for `--with-openai`: only those in PATHS can be reached."""

from argparse import Namespace
from typing import Any

PATHS = ("/v1/models", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/version")


async def openai_app(client, args: Namespace) -> tuple[tuple[str, ...], Any]:
    """
    Build an ASGI app of vLLM's routes, and return PATHS and the app. None of these paths loads or writes anything.

    Args:
        client: vLLM's engine client.
        args: vLLM's server arguments.
    """
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    tasks = await client.get_supported_tasks()
    app = build_app(args, tasks, client.model_config)
    await init_app_state(client, app.state, args, tasks)
    return PATHS, app
