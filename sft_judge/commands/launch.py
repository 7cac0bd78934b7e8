"""
Run `sft-judge train` on several GPUs or machines with `accelerate launch`.

Arguments of accelerate (--config_file, --num_processes, --num_machines, --machine_rank, --main_process_ip, ...) can be
anywhere; all others go to `sft-judge train`. For several machines, run the command on each of them, or use
scripts/slurm.sh or scripts/ssh_launch.sh.
"""

import logging
import shlex

from sft_judge.commands.arguments import natural, positive
from sft_judge.core.errors import InputError

logger = logging.getLogger(__name__)

EXAMPLE = (
    "sft-judge launch --config_file zero2 --num_processes 8 --config qwen2.5-3b/student --battles battles.parquet "
    "--fold 0 --output_dir runs/student"
)
LAUNCH_FILE = "ddp"
OF_ACCELERATE = {  # passed on unchanged; the launch file has the values of the others
    "--num_processes": (positive, "N", "number of processes on all machines together, one per GPU"),
    "--num_machines": (positive, "N", "number of machines"),
    "--machine_rank": (natural, "RANK", "rank of this machine; the first is 0"),
    "--main_process_ip": (str, "HOST", "address of the first machine"),
    "--main_process_port": (natural, "PORT", "port of the first process; 0 picks a free port"),
}


def add_arguments(parser):
    parser.usage = "sft-judge launch [--config_file FILE] [--num_processes N] [--dry-run] TRAINING ARGUMENTS ..."
    parser.add_argument(
        *_spellings("--config_file"),
        default=LAUNCH_FILE,
        metavar="FILE",
        help=f"launch file of accelerate, or a name in recipes/accelerate/: ddp, zero2, fsdp, ... ({LAUNCH_FILE})",
    )
    for flag, (kind, metavar, text) in OF_ACCELERATE.items():
        parser.add_argument(*_spellings(flag), type=kind, metavar=metavar, help=f"{text} (as in the launch file)")
    parser.add_argument("--dry-run", "--print", action="store_true", help="print the accelerate command and exit")


def parse_args(parser, argv):
    """
    Parse the arguments of the launcher, and check that `sft-judge train` accepts all others.

    Args:
        parser: parser of the launcher.
        argv: the arguments.
    """
    from sft_judge.core.registry import parse

    args, args.training = parser.parse_known_args(argv)
    parse("train", args.training)
    return args


def run(args):
    words = _accelerate_words(args)
    if args.dry_run:
        print(shlex.join(["accelerate", "launch", *words]))
        return
    status = _launch(words)
    if status:
        raise SystemExit(status)


def _launch(words: list[str]) -> int:
    """Run `accelerate launch` and return the exit status of the first process that failed, or 0."""
    from subprocess import CalledProcessError

    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch_command(launch_command_parser().parse_args(words))
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
    except CalledProcessError as error:
        status = error.returncode
    except SignalException as error:
        status = -error.sigval
    except (ValueError, ImportError) as error:
        raise InputError(f"accelerate refuses this launch: {error}") from error
    else:
        return 0
    return status if status >= 0 else 128 - status  # killed by a signal


def _accelerate_words(args) -> list[str]:
    """
    Return the arguments of `accelerate launch`.

    Raises:
        InputError: the launch file is missing or invalid, or there are more processes than GPUs.
    """
    import torch
    import yaml

    from sft_judge.core.files import load_yaml
    from sft_judge.core.resources import find_resource

    name = args.config_file
    file = find_resource("recipes", name if "/" in name or name.endswith((".yaml", ".json")) else f"accelerate/{name}")
    try:
        settings = load_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(settings, dict) or "distributed_type" not in settings:
        raise InputError(f"{file} has no distributed_type, so it is not a launch file; see recipes/accelerate/.")
    gpus = 0 if settings.get("use_cpu") else torch.cuda.device_count()
    processes = args.num_processes or settings.get("num_processes") or 1
    _check_processes(processes, gpus * (args.num_machines or settings.get("num_machines") or 1), file, settings)
    given = {flag: getattr(args, flag.removeprefix("--")) for flag in OF_ACCELERATE}
    flags = [str(word) for flag, value in given.items() if value is not None for word in (flag, value)]
    return ["--config_file", str(file), *flags, "-m", "sft_judge", "train", *args.training]


def _check_processes(processes: int, gpus: int, file, settings: dict) -> None:
    """Raise `InputError` for more processes than GPUs (0: CPU), or for several if the launch file allows one."""
    if processes > 1 and settings["distributed_type"] in ("NO", False):
        raise InputError(f"{file} starts one process, not {processes}; use ddp, zero2 or fsdp.")
    if 0 < gpus < processes:
        raise InputError(
            f"{processes} processes for {gpus} GPU{'s' * (gpus > 1)}, expected one per GPU: --num_processes {gpus}"
        )
    if processes < gpus:
        logger.warning(f"{processes} of {gpus} GPUs are used; --num_processes {gpus} uses all.")


def _spellings(flag: str) -> list[str]:
    """Return a flag of accelerate with underscores and with hyphens."""
    return list(dict.fromkeys([flag, "--" + flag[2:].replace("_", "-")]))
