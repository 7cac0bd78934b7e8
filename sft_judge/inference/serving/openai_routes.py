"""vLLM's own routes, for `--with-openai`: only those in PATHS can be reached."""

from argparse import Namespace

PATHS = ("/v1/models", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/version")


async def openai_app(client, args: Namespace):
    """
    Build an ASGI app of vLLM's routes in PATHS; any other path is a 404. None of them loads or writes anything.

    Args:
        client: vLLM's engine client.
        args: vLLM's server arguments.
    """
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    from sft_judge.inference.serving.errors import CODES, HttpError, response

    tasks = await client.get_supported_tasks()
    app = build_app(args, tasks, client.model_config)
    await init_app_state(client, app.state, args, tasks)

    async def named(scope, receive, send):
        if scope["path"] in PATHS:
            await app(scope, receive, send)
        else:
            await response(HttpError(404, CODES[404], "Not Found"))(scope, receive, send)

    return named
