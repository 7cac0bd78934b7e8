"""
Evaluate judges on battles with known verdicts: metrics with 95 % intervals, and a report.

Takes one or several probs files of the same battles; several judges are compared pairwise on the same rows. Each file
holds raw probabilities, which are calibrated with its judge's judge.json. --verdicts takes judges that give verdicts
without probabilities; they get an accuracy, but no log loss. With the ground truth of synthetic battles, the expected
log loss and the skill score are computed too. The skill score is 0 % for class frequencies and 100 % for the best
possible judge.

--policies A B also reports how often the answers of model A beat those of model B, by the judges and by the votes. If
no battle has a verdict, only this is reported.
"""

from pathlib import Path

from sft_judge.commands.arguments import add_limit, natural, positive, seed
from sft_judge.commands.console import print_tables
from sft_judge.core.choices import BENCHMARKS, DISAGREE_RULES, UNREAD_RULES
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath, write_json, write_text
from sft_judge.core.manifest import manifest_path, read_stages

EXAMPLE = (
    "sft-judge evaluate --probs runs/demo/probs.parquet --battles runs/demo/test.parquet --output runs/demo "
    "--truth runs/demo/planted/truth/test.parquet"
)


def add_arguments(parser):
    parser.add_argument(
        "--probs", type=InputPath, nargs="+", default=[], metavar="F", help="probs files, one per judge"
    )
    parser.add_argument(
        "--verdicts",
        type=InputPath,
        nargs="+",
        default=[],
        metavar="F",
        help="files of judges without probabilities, one per judge, with id, verdict (a, b, tie, or empty if the "
        "answer could not be read) and, if known, order (ab, ba); a is the battle's response_a in both orders",
    )
    parser.add_argument(
        "--unread",
        choices=UNREAD_RULES,
        default="wrong",
        help="count an answer that could not be read as wrong, as PandaLM and LLMBar do, or skip it (wrong)",
    )
    parser.add_argument(
        "--disagree",
        choices=DISAGREE_RULES,
        default="half",
        help="if the two orders have different verdicts, count each half, count a tie (MT-Bench), or count both as "
        "wrong (Auto-J's agreement) (half)",
    )
    parser.add_argument(
        "--verdict-probabilities",
        action="store_true",
        help="derive probabilities of --verdicts judges from their confusion matrix, cross-fitted over prompts",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="skip and count battles without an answer of a judge"
    )
    parser.add_argument("--battles", type=InputPath, required=True, help="battles that were judged")
    parser.add_argument(
        "--output", type=OutputPath, required=True, help="folder for metrics.json, report.html and against_votes.csv"
    )
    parser.add_argument("--names", nargs="+", help="names of the judges (from the files' names)")
    parser.add_argument(
        "--main", metavar="NAME", help="judge whose metrics are at the top level of metrics.json (the last)"
    )
    parser.add_argument("--truth", type=InputPath, help="true probabilities from `sft-judge synth`")
    parser.add_argument(
        "--attacked",
        type=InputPath,
        metavar="PROBS",
        help="the judge's probs file of the copies from `sft-judge attack`",
    )
    parser.add_argument("--train", type=InputPath, help="training battles, whose verdicts give the class frequencies")
    parser.add_argument("--fold", type=natural, metavar="N", help="evaluate only this fold of the battles")
    parser.add_argument("--uncalibrated", action="store_true", help="do not calibrate the probabilities")
    parser.add_argument(
        "--stages",
        type=Path,
        metavar="DIR",
        help="folder of a run, whose manifests and training logs the report shows",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap (0)")
    parser.add_argument(
        "--examples",
        type=positive,
        metavar="N",
        help="show the text of the N worst battles, and of N on which all judges agree against the vote",
    )
    parser.add_argument(
        "--benchmark", choices=BENCHMARKS, help="also compute the score of this benchmark, by its own rules"
    )
    parser.add_argument(
        "--policies", nargs=2, metavar=("A", "B"), help="two models; report how often the answer of the first wins"
    )
    parser.add_argument("--quiet", action="store_true", help="write the files without printing tables")
    add_limit(parser)


def outputs(args):
    return [args.output / name for name in ("metrics.json", "report.html", "against_votes.csv")]


def extra_inputs(args):
    from sft_judge.inference.calibrated import judge_files

    return [] if args.uncalibrated else judge_files(args.probs)


def run(args) -> dict:
    from sft_judge.data.battles import read_battles
    from sft_judge.evaluation.agreement import against_votes
    from sft_judge.evaluation.align import align_judges
    from sft_judge.evaluation.verdict_judges import VerdictRules

    if not args.probs and not args.verdicts:
        raise InputError("Nothing to evaluate: give --probs F, --verdicts F or both.")
    if args.stages is not None and not args.stages.is_dir():
        raise InputError(f"{args.stages}: no such folder; --stages takes the folder of a run.")
    files = judge_names([*args.probs, *args.verdicts], args.names)
    of_verdicts = {name: path for name, path in files.items() if path in args.verdicts}
    main = args.main or list(files)[-1]
    if main not in files:
        raise InputError(f"--main {main!r} is not one of the judges; they are {', '.join(files)}.")
    if args.battles.resolve() in (path.resolve() for path in args.verdicts):
        raise InputError(f"{args.battles}: its verdicts are people's; --verdicts takes the verdicts of a judge.")
    battles = read_battles(args.battles)
    with_probs = {name: path for name, path in files.items() if name not in of_verdicts}
    if with_probs and args.policies and args.truth is None and battles["verdict"].null_count == battles.num_rows:
        return _policies_alone(args, with_probs, battles)
    aligned = align_judges(
        with_probs,
        battles,
        args.battles,
        keep=_keep_rows(args, battles),
        truth_path=args.truth,
        raw=args.uncalibrated,
        verdict_files=of_verdicts,
        rules=VerdictRules(args.unread, args.disagree, args.verdict_probabilities),
        allow_missing=args.allow_missing,
    )
    against = against_votes(aligned)
    metrics = _measure(args, files, main, battles, aligned, len(against))
    _write(args, metrics, aligned, against)
    if not args.quiet:
        _print_tables(metrics)
    print("\n".join([*metrics["notes"], *_caveats(metrics), f"report: {args.output / 'report.html'}"]))
    return {"rows": metrics["n"], "log_loss": metrics["log_loss"]}


def _measure(args, files: dict, main: str, battles, aligned, num_against: int) -> dict:
    """Compute the content of metrics.json."""
    from sft_judge.evaluation.agreement import agreement
    from sft_judge.evaluation.benchmarks import benchmark
    from sft_judge.evaluation.cut_battles import cut_tokens
    from sft_judge.evaluation.evaluate import caveats, measure_judges
    from sft_judge.evaluation.provenance import collect_judge_provenance
    from sft_judge.evaluation.report import length_histograms, preferred_scores, read_logs
    from sft_judge.evaluation.robustness import robustness

    *frequencies, worth_note = _frequencies(args, aligned)
    metrics, judge = measure_judges(aligned, *frequencies, main, args.seed), aligned.judges[main]
    metrics |= {"agreement": agreement(aligned, args.seed), "against_votes": num_against}
    metrics |= {"notes": [*aligned.notes, *caveats(metrics)], "worth_note": worth_note}
    metrics["preferred"] = preferred_scores(judge.probs, aligned.verdicts, args.seed) if judge.has_probs else None
    metrics["cut"] = cut_tokens(judge.source, aligned.battles)
    metrics["provenance"] = collect_judge_provenance(files, aligned, args.battles, args.truth, args.fold, args.seed)
    metrics["lengths"] = length_histograms(aligned.battles)
    metrics["logs"] = read_logs(args.stages) if args.stages else {}
    if args.stages and (stages := read_stages(args.stages, manifest_path(outputs(args)[0]))):
        metrics["stages"] = stages
    if args.benchmark:
        metrics["benchmark"] = benchmark(args.benchmark, aligned, args.seed)
    if args.attacked:
        metrics["attacks"] = robustness(aligned, main, args.attacked, args.uncalibrated, args.seed)
    if args.policies:
        judges = {name: judge.calibrated for name, judge in aligned.judges.items()}
        without_probs = {name for name, judge in aligned.judges.items() if not judge.has_probs}
        metrics["policies"] = _policies(args, battles, judges, without_probs)
    return metrics


def _write(args, metrics: dict, aligned, against: list[dict]) -> None:
    from sft_judge.evaluation.agreement import example_texts, write_against_votes
    from sft_judge.evaluation.report import render_report

    lists = {"against": against, "worst": metrics["worst"]}
    examples = {name: example_texts(aligned, votes, args.examples or 0) for name, votes in lists.items()}
    page = render_report(metrics, examples)
    write_json(args.output / "metrics.json", metrics)
    write_text(args.output / "report.html", page)
    write_against_votes(outputs(args)[2], against)


def _print_tables(metrics: dict) -> None:
    from sft_judge.evaluation.agreement import agreement_table
    from sft_judge.evaluation.benchmarks import benchmark_table
    from sft_judge.evaluation.policy_wins import policies_table
    from sft_judge.evaluation.reporting.tables import skill_table, stages_table

    tables = [stages_table(metrics["stages"])] if "stages" in metrics else []
    tables += [skill_table(metrics), agreement_table(metrics["agreement"], metrics["against_votes"], metrics["n"])]
    tables += [benchmark_table(metrics["benchmark"])] if "benchmark" in metrics else []
    tables += [policies_table(metrics["policies"])] if "policies" in metrics else []
    print_tables(tables)


def _policies(args, battles, judges: dict, without_probs=()) -> dict:
    import pyarrow as pa

    from sft_judge.evaluation.policy_wins import policy_wins

    chosen = battles.filter(pa.array(_keep_rows(args, battles)))
    return policy_wins(chosen, judges, tuple(args.policies), args.battles, args.seed, without_probs)


def _policies_alone(args, files: dict, battles) -> dict:
    """Report how often each policy wins, by the judges, on battles without verdicts."""
    from sft_judge.data.probs import describe_unfinished, read_probs
    from sft_judge.evaluation.policy_wins import policies_table
    from sft_judge.evaluation.reporting.html import Section, render_page
    from sft_judge.inference.calibrated import calibrate_probs

    judges = {name: calibrate_probs(read_probs(path), args.uncalibrated) for name, path in files.items()}
    policies = _policies(args, battles, judges)
    table = policies_table(policies)
    notes = ["No battle has a verdict, so the judges cannot be evaluated. In brackets: 95 % intervals."]
    for name, judge in judges.items():
        notes.append("; ".join(filter(None, [f"{name}: {judge.reason}", describe_unfinished(judge.orders)])))
    page = render_page("sft_judge: policies", "Which policy wins", notes, [Section("", tables=[table])])
    write_json(args.output / "metrics.json", {"n": 0, "policies": policies, "notes": notes})
    write_text(args.output / "report.html", page)
    if not args.quiet:
        print_tables([table])
    print("\n".join([*notes, f"report: {args.output / 'report.html'}"]))
    return {"rows": 0, "battles": policies["battles"]}


def judge_names(paths: list[Path], names: list[str] | None) -> dict[str, Path]:
    """
    Return `{name: file}` of the judges.

    Without `names`, a judge is named after its file, or after the folder if the file is called `probs`. If these names
    are not unique, the whole paths are used.

    Args:
        paths: probs and verdict files.
        names: names of the judges, in the order of `paths`, or None.

    Raises:
        InputError: there are too few or too many names, or a name is used twice or reserved.
    """
    if names is None:
        names = [path.parent.name if path.stem == "probs" and path.parent.name else path.stem for path in paths]
        names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    if len(names) != len(paths):
        raise InputError(f"{len(names)} names for {len(paths)} files; give one name per file, in their order.")
    taken = [name for name in names if names.count(name) > 1 or name in ("class frequencies", "best possible")]
    if taken:
        raise InputError(f"The judge name {taken[0]!r} is already taken; give different --names.")
    return dict(zip(names, paths, strict=True))


def _keep_rows(args, battles):
    """Return the mask `[rows]` of battles that --fold and --limit keep."""
    import numpy as np

    from sft_judge.data.battles import rows_of_fold

    chosen = rows_of_fold(battles, args.fold, args.battles)["id"].to_pylist()[: args.limit]
    return np.isin(battles["id"].to_numpy(zero_copy_only=False).astype(str), chosen)


def _frequencies(args, aligned):
    """Return class frequencies `[K]`, those of longer, shorter and neither `[K]`, and a note on their source."""
    import numpy as np

    from sft_judge.data.battles import read_battles
    from sft_judge.evaluation.align import VERDICT_INDEX
    from sft_judge.evaluation.baselines import class_frequencies, longer_frequencies, longer_response

    num = aligned.num_verdicts
    battles, verdicts = aligned.battles, aligned.verdicts
    note = "frequencies are those of the evaluated rows themselves; --train BATTLES uses training rows instead"
    if args.train is not None:
        battles, note = read_battles(args.train), f"frequencies are those of {args.train}"
        if args.train.resolve() == args.battles.resolve():  # the evaluated rows must not be used
            held_out = set(aligned.battles["id"].to_pylist())
            battles = battles.filter([id_ not in held_out for id_ in battles["id"].to_pylist()])
        verdicts = np.array([VERDICT_INDEX.get(name, -1) for name in battles["verdict"].to_pylist()], dtype=int)
        if not ((verdicts >= 0) & (verdicts < num)).any():
            raise InputError(f"{args.train}: no verdicts outside the evaluated rows to take class frequencies from.")
    longer = longer_frequencies(verdicts, longer_response(battles), num)
    return class_frequencies(verdicts, num), longer, note


def _caveats(metrics: dict) -> list[str]:
    judges = metrics["provenance"]["judges"]
    return [f"caveat: {name}: {judge['caveat']}" for name, judge in judges.items() if "caveat" in judge]
