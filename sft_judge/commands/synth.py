"""
Make synthetic battles whose best possible log loss is known.

Writes train.csv, test.csv, sample_submission.csv and shifted.csv (a source with other tastes) in the LMSYS
competition's own format, and, apart from them, the true probabilities in truth/, which no training stage reads.
Presets: `easy` has four qualities that can be read off single words, 22 % ties and no noise; `full` adds being on
topic and in the prompt's language, noise, biases, near-duplicate prompts and text like control tokens.
"""

import json

from sft_judge.core.files import OutputPath, whole_folder

EXAMPLE = "sft-judge synth --output runs/synthetic --rows 20000 --test-rows 2000 --seed 1 --preset easy"
KNOBS = {
    "rows": (int, "rows of train.csv"),
    "test_rows": (int, "rows of test.csv"),
    "shifted_rows": (int, "rows of shifted.csv"),
    "seed": (int, "of everything drawn; the preferences themselves do not depend on it"),
    "verdicts": (int, "3, or 2 for no ties"),
    "tie_rate": (float, "mean probability of a tie, before label noise"),
    "scale": (
        float,
        "standard deviation of the utility difference, in log-odds, were the two kinds of qualities independent; they "
        "go together, and with --hard-share above 0 it is larger: 2.3 of preset full",
    ),
    "label_noise": (float, "share of verdicts drawn uniformly"),
    "position_bias": (float, "added to the utility of response a, in log-odds"),
    "length_bias": (float, "utility of one more word, on top of the quality `length`"),
    "hard_share": (float, "share of that variance made by being on topic and in the prompt's language"),
    "near_duplicates": (float, "share of rows whose prompt is a known one with one word more"),
    "hostile": (float, "share of rows with text that looks like control tokens or a verdict"),
}


def add_arguments(parser):
    parser.add_argument("--output", type=OutputPath, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--preset", choices=("easy", "full"), default="easy", help="where the knobs start (easy)")
    parser.add_argument("--languages", metavar="en,es,...", help="of en, es, ru, zh (all four)")
    for name, (kind, text) in KNOBS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=text)


def run(args) -> dict:
    from sft_judge.data.synthetic.competition_files import write_competition_csv, write_sample
    from sft_judge.data.synthetic.generator import generate_split
    from sft_judge.data.synthetic.ground_truth import write_truth
    from sft_judge.data.synthetic.preference_model import SPLITS, preset_settings

    knobs = {name: getattr(args, name) for name in KNOBS}
    languages = tuple(args.languages.split(",")) if args.languages else None
    settings = preset_settings(args.preset, languages=languages, **knobs)
    summary = {}
    with whole_folder(args.output) as folder:
        (folder / "truth").mkdir()
        for split in SPLITS:
            drawn = generate_split(settings, split)
            write_competition_csv(folder / f"{split}.csv", drawn.rows, labelled=split != "test")
            write_truth(folder / "truth" / f"{split}.parquet", drawn)
            summary[split] = summarise(drawn)
            if split == "test":
                write_sample(folder / "sample_submission.csv", drawn.rows, settings.verdicts)
        text = json.dumps(summary, indent=2) + "\n"
        (folder / "truth" / "summary.json").write_text(text, encoding="utf-8")
    print_summary(summary)
    return {"truth": summary}


def summarise(split) -> dict:
    """
    What the ground truth says of one split, in nats a row.

    `best_log_loss` is the mean entropy of the true probabilities, `realised_log_loss` the truth's own loss on the
    drawn verdicts, `class_frequency_log_loss` the expected loss of always answering the mean true probabilities.
    """
    import numpy as np
    from scipy.special import xlogy

    probs, verdicts = split.probs, split.verdicts
    mean = probs.mean(axis=0)
    return {
        "rows": len(probs),
        "best_log_loss": float(-xlogy(probs, probs).sum(axis=1).mean()),
        "realised_log_loss": float(-np.log(probs[np.arange(len(probs)), verdicts]).mean()),
        "class_frequency_log_loss": float(-xlogy(mean, mean).sum()),
        "tie_share": float((verdicts == 2).mean()),
        "words_per_response": float(split.draw.words.mean()),
    }


def print_summary(summary: dict) -> None:
    """One line a split."""
    print(f"{'split':<8} {'rows':>8} {'best':>7} {'realised':>9} {'class freq':>11} {'ties':>6} {'words':>6}")
    for split, values in summary.items():
        print(
            f"{split:<8} {values['rows']:>8} {values['best_log_loss']:>7.4f} {values['realised_log_loss']:>9.4f} "
            f"{values['class_frequency_log_loss']:>11.4f} {values['tie_share']:>6.3f} "
            f"{values['words_per_response']:>6.1f}"
        )
