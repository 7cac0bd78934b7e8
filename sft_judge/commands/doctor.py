"""Show what is installed, what each missing extra adds, and which GPU is found. Nothing is changed."""

from sft_judge.core.version import __version__

EXAMPLE = "sft-judge doctor"


def add_arguments(parser):
    pass


def run(args):
    import platform

    from sft_judge.core import environment as doctor

    gpus = doctor.list_gpus()
    print(f"sft-judge {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print("\n".join(f"GPU {number}: {gpu}" for number, gpu in enumerate(gpus)) or "no NVIDIA GPU found")
    versions, missing = doctor.check_core()
    print("\ncore\n  " + _list_versions(versions) + "".join(f"\n  NOT MET {requirement}" for requirement in missing))
    print("\nextras")
    for extra in doctor.check_extras():
        if extra.missing:
            here = f" (here: {_list_versions(extra.installed)})" if extra.installed else ""
            print(f"  - {extra.name:<10} adds {extra.gives}: {doctor.install_command(extra.name)}{here}")
        else:
            print(f"  + {extra.name:<10} {_list_versions(extra.installed)}")
    problems = doctor.find_problems(bool(gpus))
    print("\n" + "\n".join(f"problem: {problem}" for problem in problems) if problems else "\nno problems found")
    return {}


def _list_versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items())
