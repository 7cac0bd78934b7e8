"""
Decide whether to mix in a second source of battles: train on each source, score on both.

One fold of REF and one fold of OTHER are held out. One judge is trained on the other folds of each, with the recipe.
Both judges and the class frequencies of both sets are scored on both held-out folds. Writes shift.json and shift.html
with a verdict (mix, stage, leave out, or cannot tell) and its rule; the judges are kept in DIR/judges. Every key of
the recipe can be given as --key value. A killed run resumes, and judges that are up to date are not trained again.
"""

from pathlib import Path

from sft_judge.commands.arguments import add_limit, positive, seed
from sft_judge.commands.console import print_tables
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath, write_json, write_text
from sft_judge.core.resources import find_resource
from sft_judge.training.recipes import read_recipe

EXAMPLE = (
    "sft-judge shift ours.parquet theirs.parquet --config recipes/demo/teacher.yaml --output runs/shift "
    "--model_name_or_path runs/demo/teacher-base"
)
SET_HERE = ("battles", "output_dir", "fold", "holdout_fold", "labels", "limit")


def add_arguments(parser):
    parser.add_argument("ref", type=InputPath, metavar="REF", help="battles like those that the judge is for")
    parser.add_argument("other", type=InputPath, metavar="OTHER", help="battles that may be mixed in")
    parser.add_argument("--config", required=True, metavar="RECIPE", help="recipe, or a name such as demo/teacher")
    parser.add_argument("--output", required=True, type=OutputPath, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--folds", type=positive, default=5, metavar="N", help="number of folds to assign if the files have none (5)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the folds, the training and the bootstrap (0)")
    parser.usage = "sft-judge shift REF OTHER --config RECIPE --output DIR [--folds N] [--seed N] [--key value ...]"
    add_limit(parser)


def parse_args(parser, argv):
    """
    Parse the command's own arguments; all others are keys of the recipe.

    Args:
        parser: parser of the command.
        argv: the arguments.
    """
    args, args.overrides = parser.parse_known_args(argv)
    return args


def extra_inputs(args):
    """Return the recipe and its base model."""
    return [find_resource("recipes", args.config), *read_recipe(args.config, args.overrides).input_paths()]


def outputs(args):
    return [args.output / "shift.json", args.output / "shift.html"]


def run(args) -> dict:
    from sft_judge.data.battles import read_battles
    from sft_judge.evaluation import dataset_shift
    from sft_judge.pipelines.execution import run_steps
    from sft_judge.training.config import check_keys

    recipe = read_recipe(args.config, args.overrides)
    settings = recipe.settings
    check_keys(settings)
    recipe.require("model_name_or_path")
    for key in SET_HERE:
        if settings.get(key) is not None:
            raise InputError(f"{key} is {settings[key]!r}, but shift sets it itself for each judge. Remove it.")
    if args.folds < 2:
        raise InputError(f"--folds {args.folds}: expected 2 or more, as one fold is held out.")
    names = set_names(args.ref, args.other)
    tables = [read_battles(path, args.limit) for path in (args.ref, args.other)]
    dataset_shift.check_comparable([str(args.ref), str(args.other)], tables)
    tables, folds_note = dataset_shift.deal_folds(*tables, args.folds, args.seed)
    folds, held, left_out = dataset_shift.split_held_out(tables)
    for name, rows in zip(names, held, strict=True):
        if rows.num_rows == 0:
            raise InputError(
                f"{name}: no held-out battle has both a verdict and a prompt that is not in training. Give other "
                "battles, or files without folds, so that folds are assigned to both sets together."
            )
    paths = write_sets(args.output, tables, held)
    status = run_steps(list_steps(args, paths, folds), set(), args.output)
    if status:
        raise SystemExit(status)
    result = score_sets(args, names, tables, folds, held, paths)
    for name, count in zip(names, left_out, strict=True):
        result["sets"][name]["left_out"] = count
    result |= {"folds": folds_note, "recipe": str(args.config)}
    write_json(outputs(args)[0], result)
    write_text(outputs(args)[1], dataset_shift.render_shift(result))
    print_tables(dataset_shift.tables_of(result))
    print(f"{dataset_shift.verdict_line(result)}\npage: {outputs(args)[1]}")
    return {"verdict": result["verdict"]}


def set_names(ref: Path, other: Path) -> list[str]:
    """
    Return the names of the sets: those of their files, or the whole paths if these are equal.

    Args:
        ref: file of the reference set.
        other: file of the other set.
    """
    return [ref.stem, other.stem] if ref.stem != other.stem else [str(ref), str(other)]


def write_sets(folder: Path, tables, held) -> dict[str, list[Path]]:
    """
    Write the battles of both sets.

    Args:
        folder: folder to write to.
        tables: battles with folds, of the reference set and of the other.
        held: their held-out battles.

    Returns:
        Paths of "battles", "held" and "judges", those of the reference set first.
    """
    from sft_judge.data.battles import write_battles

    sides = ("ref", "other")
    paths = {kind: [folder / f"{kind}-{side}.parquet" for side in sides] for kind in ("battles", "held")}
    for kind, of_kind in (("battles", tables), ("held", held)):
        for path, table in zip(paths[kind], of_kind, strict=True):
            write_battles(path, table)
    return paths | {"judges": [folder / "judges" / side for side in sides]}


def probs_path(judge: Path, held: Path) -> Path:
    """
    Return the path of a judge's probs file of held-out rows.

    Args:
        judge: folder of the judge.
        held: file of the held-out battles.
    """
    return held.with_name(f"probs-{judge.name}-on-{held.stem.removeprefix('held-')}.parquet")


def list_steps(args, paths: dict[str, list[Path]], folds: list[int]) -> list:
    """
    Return the steps that train a judge on each set and score both sets with each judge.

    Args:
        args: arguments of the command.
        paths: result of `write_sets`.
        folds: held-out fold of each set.
    """
    from sft_judge.pipelines.pipeline import Step

    steps = []
    for judge, battles, fold in zip(paths["judges"], paths["battles"], folds, strict=True):
        words = ["--config", args.config, *args.overrides, "--battles", battles, "--output_dir", judge]
        words += ["--holdout_fold", fold, "--seed", args.seed]
        steps.append(Step(f"train {judge.name}", "train", [str(word) for word in words]))
        scored = [probs_path(judge, held) for held in paths["held"]]
        words = ["--model", judge, "--battles", *paths["held"], "--output", *scored, "--engine", "transformers"]
        steps.append(Step(f"score with {judge.name}", "predict", [str(word) for word in words]))
    return steps


def score_sets(args, names: list[str], tables, folds: list[int], held, paths) -> dict:
    """
    Compute the metrics of shift.json.

    Args:
        args: arguments of the command.
        names: names of the two sets.
        tables: battles of each set, with folds.
        folds: held-out fold of each set.
        held: held-out battles of each set.
        paths: result of `write_sets`.
    """
    from sft_judge.evaluation.align import align_judges
    from sft_judge.evaluation.dataset_shift import RULES, decide, num_training_rows, score_judges, training_frequencies

    sets = {}
    for place, name in enumerate(names):
        path = paths["held"][place]
        files = {who: probs_path(judge, path) for who, judge in zip(names, paths["judges"], strict=True)}
        aligned = align_judges(files, held[place], path)
        frequencies = {
            who: training_frequencies(table, fold, aligned.num_verdicts)
            for who, table, fold in zip(names, tables, folds, strict=True)
        }
        sets[name] = score_judges(aligned, frequencies, name, names[1 - place], args.seed)
        sets[name] |= {"fold": folds[place], "trained_on": num_training_rows(tables[place], folds[place])}
    verdict = decide([one["gains"] for one in sets.values()])
    return {"verdict": verdict, "rule": RULES[verdict], "sets": sets}
