"""
Serve a judge over HTTP with vLLM: `POST /v1/judge`, and a page at `/` to try it.

Also answers in the wire formats of decision models (/v1/decisions, /v1/systemone) and of reinforcement learning
(/reward, /compare).

Binds 127.0.0.1 by default, and refuses a public address without API keys. See also /health, /metrics (Prometheus) and
/openapi.json. On SIGTERM, the server finishes running requests before it stops. Flags of vLLM can follow `--`.
"""

import argparse
from pathlib import Path

from sft_judge.commands.arguments import FROM_HUB, positive
from sft_judge.core.choices import DTYPES

EXAMPLE = "sft-judge serve --model runs/demo/judge --port 8000"


def add_arguments(parser):
    from sft_judge.inference.serving.limits import HELP, METHODS, Limits, RewardSettings

    parser.add_argument("--model", required=True, metavar="DIR", help=f"{FROM_HUB}; not an adapter")
    parser.add_argument("--name", help="name of the judge in answers (its folder's name)")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (127.0.0.1)")
    parser.add_argument("--port", type=port, default=8000, help="port to bind; 0 picks a free port (8000)")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="F", help="file of API keys, one per line; clients must send one of them"
    )
    parser.add_argument("--insecure", action="store_true", help="allow a public address without API keys")
    parser.add_argument(
        "--allowed-hosts",
        nargs="+",
        metavar="NAME",
        help="host names that requests may address besides this machine's (any; without keys and on a local address, "
        "none)",
    )
    parser.add_argument(
        "--root-path", default="", metavar="PATH", help="path under which a proxy publishes the server"
    )
    parser.add_argument("--ssl-certfile", type=Path, metavar="F", help="certificate, to serve HTTPS")
    parser.add_argument("--ssl-keyfile", type=Path, metavar="F", help="private key of the certificate")
    parser.add_argument(
        "--with-openai", action="store_true", help="also serve vLLM's OpenAI routes, such as /v1/completions"
    )
    parser.add_argument(
        "--log-requests", action="store_true", help="log path and status of each request, never its text"
    )
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="of the weights; auto: that of the checkpoint")
    for name, help_ in HELP.items():
        default = getattr(Limits, name)
        flag = f"--max-{name.replace('_', '-')}"
        parser.add_argument(flag, type=positive, default=default, metavar="N", help=f"{help_} ({default})")
    size, seconds, method = RewardSettings.group_size, RewardSettings.group_seconds, RewardSettings.method
    parser.add_argument(
        "--group-size",
        type=positive,
        default=size,
        metavar="N",
        help=f"/reward: rollouts of a prompt that are judged together ({size})",
    )
    parser.add_argument(
        "--group-seconds",
        type=positive,
        default=seconds,
        metavar="N",
        help=f"/reward: seconds after which a group is judged without the missing rollouts ({seconds})",
    )
    parser.add_argument(
        "--reward-method", choices=METHODS, default=method, help=f"battles among the responses of a prompt ({method})"
    )
    parser.add_argument("vllm", nargs="*", metavar="-- FLAGS", help="flags of vLLM, such as --tensor-parallel-size 2")


def port(text: str) -> int:
    """Parse a TCP port, as an argparse type."""
    if not (text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text} is not a port; expected 0 to 65535")
    return int(text)


def run(args):
    import sys

    from sft_judge.inference.serving.auth import check_certificate, check_exposure, read_keys
    from sft_judge.inference.serving.limits import HELP, Limits, RewardSettings

    limits = Limits(**{name: getattr(args, f"max_{name}") for name in HELP})
    rewards = RewardSettings(args.group_size, args.group_seconds, args.reward_method)
    rewards.check(limits.queue)
    keys = read_keys(args.api_key_file) if args.api_key_file else []
    check_exposure(args.host, keys, args.insecure)
    check_certificate(args.ssl_certfile, args.ssl_keyfile)
    from sft_judge.core.model_files import name_of
    from sft_judge.inference.serving.server import Settings, serve
    from sft_judge.modeling.hub import judge_folder

    args.model = judge_folder(args.model)  # no `judge_path`: hashing the folder would take minutes at every start
    on_hub = name_of(args.model) != args.model
    args.root_path = f"/{path}" if (path := args.root_path.strip("/")) else ""
    args.name = args.name or (name_of(args.model).split("@")[0] if on_hub else None)

    names = ("model", "name", "host", "port", "dtype", "with_openai", "log_requests", "vllm")
    names += ("allowed_hosts", "root_path", "ssl_certfile", "ssl_keyfile")
    if not serve(Settings(**{name: getattr(args, name) for name in names}, keys=keys, limits=limits, rewards=rewards)):
        print("sft-judge: the judge's engine died; start the server again.", file=sys.stderr)
        raise SystemExit(1)
