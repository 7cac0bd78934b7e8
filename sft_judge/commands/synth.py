"""
Make synthetic battles whose best possible log loss is known.

Writes train.csv, test.csv, sample_submission.csv and shifted.csv (a source with other preferences) in the format of
the LMSYS competition. The true probabilities are in truth/, which no training reads. Presets: `easy` has four
qualities that depend on single words, 22 % ties and no noise. `full` adds two qualities (being on topic, and in the
prompt's language), noise, biases, near-duplicate prompts and text like control tokens.
"""

import json

from sft_judge.core.files import OutputPath, whole_folder

EXAMPLE = "sft-judge synth --output runs/synthetic --rows 20000 --test-rows 2000 --seed 1 --preset easy"
KNOBS = {
    "rows": (int, "number of rows of train.csv"),
    "test_rows": (int, "number of rows of test.csv"),
    "shifted_rows": (int, "number of rows of shifted.csv"),
    "seed": (int, "seed of the battles; the preferences do not depend on it"),
    "verdicts": (int, "number of verdicts: 3, or 2 for no ties"),
    "tie_rate": (float, "mean probability of a tie, before label noise"),
    "scale": (
        float,
        "standard deviation of the utility difference, in log-odds, if the two kinds of qualities were independent; "
        "they are correlated, so with --hard-share above 0 it is larger (2.3 with preset full)",
    ),
    "label_noise": (float, "share of verdicts drawn uniformly"),
    "position_bias": (float, "added to the utility of response a, in log-odds"),
    "length_bias": (float, "utility of one more word, on top of the quality `length`"),
    "hard_share": (float, "share of that variance (--scale) from being on topic and in the prompt's language"),
    "near_duplicates": (float, "share of rows whose prompt is another row's prompt with one more word"),
    "hostile": (float, "share of rows with text that looks like control tokens or a verdict"),
}


def add_arguments(parser):
    parser.add_argument("--output", type=OutputPath, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--preset", choices=("easy", "full"), default="easy", help="defaults of the settings below (easy)"
    )
    parser.add_argument("--languages", metavar="en,es,...", help="languages, of en, es, ru and zh (all)")
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
    Summarise the ground truth of a split, in nats per row.

    `best_log_loss` is the mean entropy of the true probabilities. `realised_log_loss` is their log loss on the drawn
    verdicts. `class_frequency_log_loss` is the expected log loss of always predicting the mean true probabilities.
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
    """Print a line per split."""
    print(f"{'split':<8} {'rows':>8} {'best':>7} {'realised':>9} {'class freq':>11} {'ties':>6} {'words':>6}")
    for split, values in summary.items():
        print(
            f"{split:<8} {values['rows']:>8} {values['best_log_loss']:>7.4f} {values['realised_log_loss']:>9.4f} "
            f"{values['class_frequency_log_loss']:>11.4f} {values['tie_share']:>6.3f} "
            f"{values['words_per_response']:>6.1f}"
        )
