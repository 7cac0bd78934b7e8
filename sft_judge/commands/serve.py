"""
Judge over HTTP, on vLLM: `POST /v1/judge`, and a page at `/` to try it.

Binds this machine's own address unless told, and refuses any other without API keys. /health, /metrics (Prometheus)
and /openapi.json say the rest. A stop (SIGTERM) waits for what is in work. Flags of vLLM may follow `--`.
"""

import argparse
from pathlib import Path

from sft_judge.commands.arguments import FROM_HUB, positive
from sft_judge.core.choices import DTYPES

EXAMPLE = "sft-judge serve --model runs/demo/judge --port 8000"


def add_arguments(parser):
    from sft_judge.inference.serving.limits import HELP, Limits

    parser.add_argument("--model", required=True, metavar="DIR", help=f"{FROM_HUB}; of whole weights")
    parser.add_argument("--name", help="how the answers call the judge (its folder's name)")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (127.0.0.1)")
    parser.add_argument("--port", type=port, default=8000, help="0 takes a free one (8000)")
    parser.add_argument("--api-key-file", type=Path, metavar="F", help="API keys, one a line; clients send one")
    parser.add_argument("--insecure", action="store_true", help="bind a public address without keys")
    parser.add_argument("--with-openai", action="store_true", help="vLLM's own /v1/completions and the like too")
    parser.add_argument("--log-requests", action="store_true", help="a line a request: path and status, never a text")
    parser.add_argument("--dtype", default="auto", choices=DTYPES)
    for name, help_ in HELP.items():
        default = getattr(Limits, name)
        flag = f"--max-{name.replace('_', '-')}"
        parser.add_argument(flag, type=positive, default=default, metavar="N", help=f"{help_} ({default})")
    parser.add_argument("vllm", nargs="*", metavar="-- FLAGS", help="of vLLM, such as --tensor-parallel-size 2")


def port(text: str) -> int:
    """argparse type: a TCP port."""
    if not (text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text} is not a port; expected 0 to 65535")
    return int(text)


def run(args):
    import sys

    from sft_judge.inference.serving.auth import check_exposure, read_keys
    from sft_judge.inference.serving.limits import HELP, Limits

    limits = Limits(**{name: getattr(args, f"max_{name}") for name in HELP})
    keys = read_keys(args.api_key_file) if args.api_key_file else []
    check_exposure(args.host, keys, args.insecure)
    from sft_judge.core.model_files import name_of
    from sft_judge.inference.serving.server import Settings, serve
    from sft_judge.modeling.hub import judge_folder

    args.model = judge_folder(args.model)  # a plain path: its hash would take minutes at every start
    on_hub = name_of(args.model) != args.model
    args.name = args.name or (name_of(args.model).split("@")[0] if on_hub else None)

    names = ("model", "name", "host", "port", "dtype", "with_openai", "log_requests", "vllm")
    if not serve(Settings(**{name: getattr(args, name) for name in names}, keys=keys, limits=limits)):
        print("sft-judge: the judge's engine died; start the server again.", file=sys.stderr)
        raise SystemExit(1)
