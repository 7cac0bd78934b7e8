"""
Distil a small judge from two large ones, with labels from teachers that were not trained on the labelled battles.

    sft-judge import train.csv --output battles.parquet
    sft-judge prepare battles.parquet --output folds.parquet --folds 5
    python examples/distil_two_teachers.py --battles folds.parquet --output runs \
        --teachers google/gemma-2-9b-it Qwen/Qwen2.5-14B-Instruct --student google/gemma-2-2b-it

Each teacher is trained once per fold, with the fold held out, and then labels this fold (`predict --out-of-fold`). The
student is trained on the verdict probabilities of both teachers (KL), and on the votes.
"""

import argparse
from pathlib import Path

from peft import LoraConfig

from sft_judge import JudgeConfig, JudgeTrainer
from sft_judge.cli import main as sft_judge
from sft_judge.data.battles import read_battles


def settings(args, output: Path, **more) -> JudgeConfig:
    steps = {} if args.max_steps is None else {"max_steps": args.max_steps}
    usual = {"battles": args.battles, "total_budget": args.total_budget, "save_strategy": "no", "num_train_epochs": 1}
    return JudgeConfig(output_dir=str(output), **usual, **steps, **more)


def label_with(args, teacher: str, folder: Path) -> Path:
    """Train a teacher for each fold, and write its out-of-fold probabilities."""
    folds = sorted(set(read_battles(Path(args.battles))["fold"].to_pylist()) - {None})
    for fold in folds:
        config = settings(args, folder / f"fold-{fold}", fold=fold, learning_rate=2e-4)
        lora = LoraConfig(r=64, lora_alpha=32, target_modules="all-linear")
        trainer = JudgeTrainer(model=teacher, args=config, peft_config=lora)
        trainer.train()
        trainer.save_model()
    labels = folder / "labels.parquet"
    words = ["--model", str(folder), "--battles", args.battles, "--output", str(labels), "--swap", "both"]
    if sft_judge(["predict", *words, "--out-of-fold"]):
        raise SystemExit(f"predicting the labels of {teacher} failed")
    return labels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--battles", required=True, help="battles file with folds")
    parser.add_argument("--teachers", nargs=2, required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--total_budget", type=int, default=3072, help="maximum number of tokens of a prompt with its verdict"
    )
    parser.add_argument("--max_steps", type=int, help="for a quick try")
    args = parser.parse_args()

    labels = [label_with(args, teacher, args.output / f"teacher-{n}") for n, teacher in enumerate(args.teachers, 1)]
    config = settings(args, args.output / "student", distill_weight=[0.9], distill_temperature=[5.0])
    student = JudgeTrainer(model=args.student, args=config, teacher_labels=labels)
    student.train()
    student.save_model()
    print(f"student: {args.output / 'student'}")


if __name__ == "__main__":
    main()
