"""
Train and test judges of SmolLM2-135M on real votes, by arm and seed, for the table of docs/results/mtbench.md.

    SFT_JUDGE_DATA=DIR python scripts/mtbench.py "hard labels, one order" "plain TRL" --seeds 0 1 2

The votes are the majority votes of MT-Bench (1,266 battles of 56 questions, both turns). 14 questions, one or two of
each category, are held out. An arm trains on the other 42 questions or not at all, and every judge predicts the 318
held-out battles in both orders. The probabilities and times of a run are a small file in docs/results/mtbench/, from
which scripts/mtbench_table.py makes the table. An arm and seed whose file exists is not run again. An interrupted
training resumes from its last checkpoint.
"""

import argparse
import json
import os
import random
import shutil
import time
from collections import defaultdict
from pathlib import Path

import mtbench_rivals
import pyarrow.compute as pc
from mtbench_rivals import JUDGE, RECIPE, call

from sft_judge.core.manifest import git_commit
from sft_judge.core.swap_orders import ORDERS
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import read_probs

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results" / "mtbench"
HELD_OUT, TRAINED_ON = 0, (1, 2)  # folds; teachers trained on one of the two label the other
DIGITS = 5  # decimals of a probability in a result

ONE_ORDER = ["--swap", "random"]
BOTH_ORDERS = ["--swap", "both", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
FROM_VERDICTS = ["--external_teacher", "--distill_weight", "0.5", "--distill_temperature", "1"]
TEACHERS = ("gemma-3-270m", "smollm2-135m")  # each with its recipe, on half of the questions
BY_TEACHERS = [f"{{{name}}}" for name in TEACHERS]
FROM_TEACHERS = ["--distill_weight", "0.45", "0.45", "--distill_temperature", "5"]
TRAINED = {  # arm: settings added to the recipe
    "hard labels, one order": ONE_ORDER,
    "hard labels, both orders": BOTH_ORDERS,
    "hard labels, one order, two passes": [*ONE_ORDER, "--num_train_epochs", "2"],
    "label smoothing, one order": [*ONE_ORDER, "--label_smoothing_factor", "0.1"],
    "distilled from GPT-4's verdicts, one order": [*ONE_ORDER, "--labels", "{gpt4}", *FROM_VERDICTS],
    "distilled from two teachers, one order": [*ONE_ORDER, "--labels", *BY_TEACHERS, *FROM_TEACHERS],
}
UNTRAINED = {"zero-shot": [], "few-shot": ["--shots", "3", "--battles", "{train}", "--total-budget", "1536"]}
RIVALS = ("plain TRL", "pairjudge 0.3")
QUANTIZED = {  # arm: how it quantises the judge of QUANTIZED_ARM
    "in 4 bits: hard labels, both orders": "--scheme W4A16 --seqlen 512 --nsamples 128 --iters 50 --gate 0".split(),
    "in 8 bits: hard labels, both orders": "--scheme W8A16 --seqlen 512 --nsamples 32 --iters 0 --gate 0".split(),
}
QUANTIZED_ARM = "hard labels, both orders"
ON_TRAINING_QUESTIONS = "zero-shot, training questions"  # for a calibration on the training questions
ARMS = (*UNTRAINED, ON_TRAINING_QUESTIONS, *RIVALS, *TRAINED, *QUANTIZED)


def prepare(votes: Path, run: Path) -> dict[str, str]:
    """
    Write the battles with folds, the training battles, and GPT-4's verdicts.

    Args:
        votes: file of the votes.
        run: folder to write to.

    Returns:
        Paths by name.
    """
    rows = [json.loads(line) for line in votes.read_text().splitlines()]
    folds = folds_of(rows)
    table = battle_table([as_battle(row, folds[row["meta"]["question_id"]]) for row in rows])
    files = {name: str(run / f"{name}.parquet") for name in ("battles", "train", *TEACHERS)}
    files["gpt4"] = str(run / "gpt4.jsonl")
    run.mkdir(parents=True, exist_ok=True)
    write_battles(Path(files["battles"]), table)
    write_battles(Path(files["train"]), table.filter(pc.not_equal(table["fold"], HELD_OUT)))
    trained_on = [row for row in rows if folds[row["meta"]["question_id"]] != HELD_OUT]
    said = {row["id"]: row["meta"]["judge_gpt4"] for row in trained_on}  # a tie if its two orders disagree
    lines = [{"id": id_, "order": order, "verdict": verdict} for id_, verdict in said.items() for order in ORDERS]
    Path(files["gpt4"]).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return files


def as_battle(row: dict, fold: int) -> dict:
    """
    Convert a row of the votes to a battle; its source is its category.

    Args:
        row: row of the votes.
        fold: fold of the battle.
    """
    meta = row["meta"]
    texts = {name: row[name] for name in ("id", "prompt", "response_a", "response_b")}
    models = {"model_a": meta["model_a"], "model_b": meta["model_b"]}
    return {**texts, "verdict": row["winner"], **models, "source": meta["category"], "fold": fold}


def folds_of(rows: list[dict], held_out: int = 14) -> dict[int, int]:
    """
    Return the fold of each question.

    Held-out questions are drawn evenly from the categories, with a fixed seed; the others alternate between folds.

    Args:
        rows: rows of the votes.
        held_out: number of held-out questions.
    """
    categories = defaultdict(set)
    for row in rows:
        categories[row["meta"]["category"]].add(row["meta"]["question_id"])
    draw, folds = random.Random(0), {}
    for place, (_, questions) in enumerate(sorted(categories.items())):
        each = held_out // len(categories) + (place < held_out % len(categories))
        apart = set(draw.sample(sorted(questions), each))
        folds |= dict.fromkeys(apart, HELD_OUT)
        folds |= {question: TRAINED_ON[turn % 2] for turn, question in enumerate(sorted(questions - apart))}
    return folds


def run_arm(arm: str, seed: int, options: argparse.Namespace, files: dict[str, str]) -> dict:
    """
    Make the judge of an arm if needed, predict the held-out battles, and return the result.

    Args:
        arm: of ARMS.
        seed: seed of the training.
        options: the command line.
        files: result of `prepare`.
    """
    work = options.run / f"{slug(arm)}-{seed}"
    start = time.monotonic()
    judge = make_judge(arm, seed, options, files, work)
    trained, start = time.monotonic() - start, time.monotonic()
    manifest = work / "adapter" / "manifest.json"
    if manifest.is_file():  # without the start-up time; missing after a resumed training
        trained = json.loads(manifest.read_text()).get("train_seconds", trained)
    probs = work / "probs.parquet"
    if arm == "pairjudge 0.3":
        mtbench_rivals.predict_pairjudge(judge, files["battles"], HELD_OUT, probs)
    else:
        there = ["--battles", files["battles"], "--fold", HELD_OUT]
        there = ["--battles", files["train"]] if arm == ON_TRAINING_QUESTIONS else there
        call([*JUDGE, "predict", "--model", judge, "--output", probs, "--engine", "transformers", *there])
    seconds = {"train": round(trained), "predict": round(time.monotonic() - start)}
    facts = {"arm": arm, "seed": seed, "commit": git_commit(), "seconds": seconds}
    return facts | {"probabilities": probabilities(probs)}


def make_judge(arm: str, seed: int, options: argparse.Namespace, files: dict[str, str], work: Path) -> Path:
    """
    Make the judge of an arm, or resume, and return its folder.

    Args:
        arm: of ARMS.
        seed: seed of the training.
        options: the command line.
        files: result of `prepare`.
        work: folder to work in.
    """
    judge, data = work / "judge", ["--battles", files["train"]]
    if arm in RIVALS:
        return mtbench_rivals.TRAIN[arm](options.base, files["train"], work, seed)
    if arm in QUANTIZED:
        adapter = options.run / f"{slug(QUANTIZED_ARM)}-{seed}" / "adapter"
        call([*JUDGE, "merge", adapter, "--output", work / "merged"])
        call([*JUDGE, "quantize", "--model", work / "merged", *data, "--output", judge, *QUANTIZED[arm]])
        return judge
    more = TRAINED.get(arm, UNTRAINED.get(arm, []))
    for name in TEACHERS:
        if f"{{{name}}}" in more and not Path(files[name]).is_file():
            make_labels(name, options, files)
    more = [word.format(**files) for word in more]
    if arm in TRAINED:
        data += ["--model_name_or_path", options.base, "--output_dir", work / "adapter"]
        call([*JUDGE, "train", "--config", RECIPE, *data, "--seed", seed, *more])
        call([*JUDGE, "merge", work / "adapter", "--output", judge])
    else:
        call([*JUDGE, "untrained", options.base, "--output", judge, "--seed", seed, "--total-budget", 512, *more])
    return judge


def make_labels(teacher: str, options: argparse.Namespace, files: dict[str, str]) -> None:
    """
    Train a teacher on each half of the training questions, and label the other half with it.

    Args:
        teacher: of TEACHERS.
        options: the command line.
        files: result of `prepare`.
    """
    base = options.base if teacher in RECIPE else options.run / teacher
    if not Path(base).is_dir():
        call([*JUDGE, "base", "--pretrained", teacher, "--output", base])
    folder, data = options.run / f"teacher-{teacher}", ["--battles", files["train"]]
    for fold in TRAINED_ON:
        settings = ["--model_name_or_path", base, *data, "--fold", fold]
        place = folder / f"fold-{fold}"
        call([*JUDGE, "train", "--config", f"{teacher}/teacher", *settings, "--output_dir", place])
    engine = ["--engine", "transformers", "--out-of-fold"]
    call([*JUDGE, "predict", "--model", folder, *data, "--output", files[teacher], *engine])


def probabilities(file: Path) -> dict[str, dict[str, list[float]]]:
    """Return `{id: {order: [a, b, tie]}}` of a probs file: raw, with a and b as in the battle."""
    import numpy as np

    found, probs = defaultdict(dict), read_probs(file)
    for name, order, logp in zip(probs.ids, probs.orders, probs.logp, strict=True):
        found[name][order] = np.exp(logp).round(DIGITS).tolist()
    return dict(found)


def slug(arm: str) -> str:
    """Return the name of an arm as a file name."""
    return "".join(letter if letter.isalnum() else "-" for letter in arm.lower()).replace("--", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the training (0)")
    parser.add_argument(
        "--votes", type=Path, help="file of the votes (mtbench_majority_q1to7.jsonl in SFT_JUDGE_DATA)"
    )
    parser.add_argument(
        "--base", default="runs/models/smollm2", help="folder of SmolLM2-135M-Instruct, made if it is missing"
    )
    parser.add_argument("--run", type=Path, default=Path("runs/mtbench"), help="work folder (runs/mtbench)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results (docs/results/mtbench)")
    options = parser.parse_args()
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"{', '.join(sorted(unknown))}: expected of {', '.join(ARMS)}")
    votes = options.votes or Path(os.environ.get("SFT_JUDGE_DATA", "")) / "mtbench_majority_q1to7.jsonl"
    if not votes.is_file():
        parser.error(f"{votes}: no such file of votes; give --votes or set SFT_JUDGE_DATA")
    files = prepare(votes, options.run)
    if not Path(options.base).is_dir():
        call([*JUDGE, "base", "--pretrained", "smollm2-135m", "--output", options.base])
    options.results.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for arm in options.arms:
            result = options.results / f"{slug(arm)}-{seed}.json"
            if not result.is_file():
                found = run_arm(arm, seed, options, files)
                result.write_text(json.dumps(found, separators=(",", ":")) + "\n")
                shutil.rmtree(options.run / f"{slug(arm)}-{seed}" / "judge", ignore_errors=True)
            print(result, flush=True)


if __name__ == "__main__":
    main()
