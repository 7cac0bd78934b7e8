"""
Check this version on one GPU in ten minutes: `python scripts/gpu_check.py --output gpu.json`.

Legs are in order of importance. A leg is skipped, with a message, if its package is missing or the time is over.

training     the rate of the layers' bfloat16 products alone (the ceiling); then the shapes of Qwen2.5-0.5B and 7B with
             random weights and the recipes' LoRA on rows of 2,048 and 6,144 tokens, with activations kept and
             checkpointed: step time, tokens per second, peak memory and utilisation of the trunk alone, of our loss,
             of our loss with last_layer_at_answer, and of TRL's loss (its fused head; PEFT casts as in its trainer);
             and whole steps with the optimizer, whose peak memory should be within 10 % of that of `--plan`
determinism  a few steps of training twice, whose losses should be bitwise identical
smollm2      recipes/smollm2-135m/teacher on real votes: held-out loss and accuracy before and after. Needs --smollm2,
             made by `sft-judge base --pretrained smollm2-135m`, and --battles with folds, made by `prepare`
qlora        whole steps on weights in NF4: time, and peak memory beside the plan's
vllm         prediction on vLLM and on transformers: rows per second, and the largest difference of probabilities

`mfu` is relative to the published rate of the GPU, `of_ceiling` to the measured rate; gpu_models.py has the formula. A
dry run has every leg on the CPU with tiny models: it tests the code, and its numbers have no meaning. The exit status
is 1 if a leg failed.
"""

import argparse
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

from measuring import Report, free_memory

STEP_LEGS = {"trunk": "trunk alone", "ours": "ours", "last_layer": "ours, last_layer_at_answer", "trl": "TRL's loss"}
TRAINED_STEPS, PREDICTED = 5, 256


def run_training(report: Report) -> None:
    """Measure the ceiling of each shape, and its legs for each length, with activations kept and checkpointed."""
    import gpu_models as models

    for shape in report.shapes:
        ceiling = report.attempt(f"{shape.name}, ceiling", models.measure_ceiling, shape, report.device)
        if ceiling:
            report.add(f"{shape.name}, ceiling", tflops_per_second=ceiling / 1e12)
        rates = (report.about["published_flops_per_second"], ceiling)
        bench = report.attempt(f"{shape.name}, model", models.MixedBench, shape, report.device, seconds=30)
        for how in ("activations kept", "checkpointed") if bench else ():
            if how == "checkpointed":
                bench.checkpoint()
            for tokens, rows in shape.rows.items():
                bench.set_rows(rows, tokens)
                place = f"{shape.name}, {rows} x {tokens:,} tokens, {how}"
                for leg, label in STEP_LEGS.items():
                    report.run(f"{place}, {label}", bench.measure_leg, leg, *rates)
                report.run(f"{place}, whole step", bench.measure_whole, seconds=15)
        del bench
        free_memory()


def train_twice(report: Report) -> dict:
    """
    Train the smallest shape twice with one seed, by the trainer.

    Returns:
        `losses` [2][steps], and `same`: True if the losses and the adapters are bitwise identical.
    """
    import torch
    from gpu_models import MixedBench

    losses, adapters = [], []
    settings = {"max_steps": TRAINED_STEPS, "logging_steps": 1, "per_device_train_batch_size": 2}
    settings |= {"save_strategy": "no", "battle_order": "random"}
    for _ in range(2):
        bench = MixedBench(report.shapes[0], report.device, rows=2 * TRAINED_STEPS, **settings)
        bench.trainer.train()
        losses.append([entry["loss"] for entry in bench.trainer.state.log_history if "loss" in entry])
        adapters.append([weight.detach().cpu() for weight in bench.model.parameters() if weight.requires_grad])
        del bench
        free_memory()
    return {"losses": losses, "same": losses[0] == losses[1] and all(map(torch.equal, *adapters))}


def run_smollm2(report: Report) -> None:
    """Train the teacher's recipe on --smollm2 and --battles; in a dry run without them, on a tiny model."""
    import gpu_models as models

    base, battles = report.options.smollm2, report.options.battles
    if base and battles:
        report.run("smollm2", train_recipe, report, base, battles, seconds=60)
    elif report.options.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            report.run("smollm2", train_recipe, report, *models.make_tiny(Path(folder)))
    else:
        report.add("smollm2", "left out: give --smollm2 FOLDER and --battles FILE")


def train_recipe(report: Report, base: Path, battles: Path) -> dict:
    """
    Train the teacher's recipe for --steps steps, and evaluate it on fold 0, which is held out, before and after.

    Args:
        report: the report.
        base: folder of the base model.
        battles: battles with folds.
    """
    from sft_judge.modeling.loading import load_config, load_tokenizer
    from sft_judge.training.adapters import adapter_config
    from sft_judge.training.base_model import load_base
    from sft_judge.training.from_python import locate
    from sft_judge.training.preparation import read_data
    from sft_judge.training.recipes import read_recipe
    from sft_judge.training.trainer import JudgeTrainer

    steps = TRAINED_STEPS if report.options.dry_run else report.options.steps
    with tempfile.TemporaryDirectory() as folder:
        values = {"model_name_or_path": base, "battles": battles, "output_dir": folder, "fold": 0, "max_steps": steps}
        here = {"use_cpu": True} if report.device == "cpu" else {}
        values |= {"save_strategy": "no", "per_device_eval_batch_size": 16, **here}
        words = [str(word) for name, value in values.items() for word in (f"--{name}", value)]
        config, adapters = read_recipe("smollm2-135m/teacher", words).configs()
        tokenizer, model = load_tokenizer(str(base)), load_base(adapters, config)
        trainer = JudgeTrainer(
            model=model,
            args=config,
            processing_class=tokenizer,
            train_dataset=read_data(config, tokenizer, load_config(str(base)).get_text_config().vocab_size),
            peft_config=adapter_config(adapters, model),
            start=locate(str(base)),
        )
        before = trainer.evaluate()
        start = time.perf_counter()
        trainer.train()
        seconds, after = time.perf_counter() - start, trainer.evaluate()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found = {"steps": steps, "seconds_per_step": seconds / steps, "first_loss": losses[0], "last_loss": losses[-1]}
    for figure in ("log_loss", "accuracy"):
        found |= {f"{figure}_before": before[f"eval_{figure}"], f"{figure}_after": after[f"eval_{figure}"]}
    return found


def run_qlora(report: Report) -> None:
    """Measure a whole step of each shape in NF4."""
    from gpu_models import MixedBench

    for shape in report.shapes:
        place = f"qlora: {shape.name} in NF4"
        written, free = 1.1 * shape.bytes, shutil.disk_usage(tempfile.gettempdir()).free
        if written > free:
            report.add(place, f"left out: it writes {written / 1e9:.0f} GB, {free / 1e9:.0f} are free (set TMPDIR)")
            continue
        bench = report.attempt(place, MixedBench, shape, report.device, True, seconds=20 + written / 2e8)
        for tokens, rows in shape.rows.items() if bench else ():
            bench.set_rows(rows, tokens)
            report.run(f"{place}, {rows} x {tokens:,} tokens, whole step", bench.measure_whole, seconds=15)
        del bench
        free_memory()


def predict_with_both(report: Report) -> dict:
    """Measure the rows per second of both engines, and the largest difference of a probability."""
    import numpy as np
    from gpu_models import make_judge, time_scores

    with tempfile.TemporaryDirectory() as folder:
        prompts = make_judge(Path(folder), report.shapes[0], report.device, PREDICTED)
        logp, seconds = time_scores("transformers", folder, prompts, report.device)
        free_memory()
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=score_on_vllm, args=(theirs, folder, prompts), daemon=True)
        process.start()
        theirs.close()
        try:
            logp_vllm, seconds_vllm = ours.recv()
        except EOFError:
            raise RuntimeError("vLLM's process ended; see its messages above") from None
        finally:
            process.kill()
    rates = {"transformers_rows_per_second": len(logp) / seconds, "vllm_rows_per_second": len(logp) / seconds_vllm}
    off = float(np.abs(np.exp(logp) - np.exp(logp_vllm)).max())
    return {**rates, "times_as_fast": seconds / seconds_vllm, "largest_difference": off}


def score_on_vllm(pipe, folder: str, prompts: list[list[int]]) -> None:
    """
    Score prompts on vLLM, in a separate process so that all memory is freed.

    Args:
        pipe: connection to the main process.
        folder: folder of the judge.
        prompts: token ids.
    """
    from gpu_models import time_scores

    pipe.send(time_scores("vllm", folder, prompts))


# leg: its function, and the optional package that it needs
LEGS = {
    "training": (run_training, None),
    "determinism": (lambda report: report.run("determinism", train_twice, report, seconds=30), None),
    "smollm2": (run_smollm2, None),
    "qlora": (run_qlora, "bitsandbytes"),
    "vllm": (lambda report: report.run("vllm", predict_with_both, report, seconds=120), "vllm"),
}
OWN_PACKAGES = ("torch", "transformers", "trl", "peft")


def read_options(words: list[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("legs", nargs="*", metavar="LEG", help=f"legs to run, by default all: {', '.join(LEGS)}")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/gpu_check.json"), metavar="FILE", help="file of results"
    )
    parser.add_argument("--minutes", type=float, default=9, help="time limit (9)")
    parser.add_argument("--dry-run", action="store_true", help="run on the CPU; the default without a GPU")
    parser.add_argument("--smollm2", type=Path, metavar="FOLDER", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--battles", type=Path, metavar="FILE", help="battles with folds, made by `prepare`")
    parser.add_argument("--steps", type=int, default=60, help="training steps of the smollm2 leg (60)")
    options = parser.parse_args(words)
    for path in filter(None, (options.smollm2, options.battles)):
        if not path.exists():
            parser.error(f"{path}: no such file or folder")
    if unknown := sorted(set(options.legs) - set(LEGS)):
        parser.error(f"{', '.join(unknown)}: expected of {', '.join(LEGS)}")
    return options


def start_report(options: argparse.Namespace) -> Report:
    """Choose the device, and start a report with facts about the machine."""
    end = time.monotonic() + 60 * options.minutes
    import sft_judge.core.third_party  # noqa: F401, I001  # before the libraries
    import gpu_models as models
    import torch

    from sft_judge.core.manifest import git_commit, versions
    from sft_judge.training.machine_defaults import prepare_launch

    prepare_launch()  # use one GPU of several
    if not options.dry_run and not torch.cuda.is_available():
        print("gpu_check: torch finds no CUDA GPU, so this is a dry run: its numbers have no meaning.", flush=True)
        options.dry_run = True
    name = "CPU, dry run" if options.dry_run else torch.cuda.get_device_name()
    about = {"device": name, "dry_run": options.dry_run, "commit": git_commit(), "versions": versions()}
    about["published_flops_per_second"] = None if options.dry_run else models.published_rate(name)
    shapes = models.SMALL_SHAPES if options.dry_run else models.SHAPES
    return Report(options.output, "cpu" if options.dry_run else "cuda", shapes, about, end, options)


def main(words: list[str] | None = None) -> int:
    options = read_options(words)
    if missing := [package for package in OWN_PACKAGES if find_spec(package) is None]:
        print(f"gpu_check: {', '.join(missing)} not installed, but every leg needs it: pip install .", file=sys.stderr)
        return 2
    report = start_report(options)
    for leg, (run, package) in LEGS.items():
        if options.legs and leg not in options.legs:
            continue
        if package and find_spec(package) is None:
            report.add(leg, f"left out: {package} is not installed")
        else:
            run(report)
    return int(any(result["status"].startswith("failed") for result in report.results))


if __name__ == "__main__":
    sys.exit(main())
