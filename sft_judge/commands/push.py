"""
Upload a judge to the Hugging Face hub: `Judge.load(ID)`, and --model ID of every stage, load it from there.

What goes: weights, tokenizer, judge.json with its calibration, the card, manifests without this machine's paths, and
--report. What stays: checkpoints, unfinished work, whatever is pickled. The folder itself is not changed; in the
card, the snippet names the repository. A card that was edited on the hub since the last push is not replaced.
"""

from pathlib import Path

EXAMPLE = "sft-judge push runs/judge --repo me/judge --private"


def add_arguments(parser):
    parser.add_argument("model", type=Path, metavar="DIR", help="a judge's folder, in any of its forms")
    parser.add_argument("--repo", required=True, metavar="ID", help="NAMESPACE/NAME, or a name in your own space")
    parser.add_argument(
        "--private", action="store_true", help="a repository for you alone; one that is public is refused"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="made where it does not exist (main)")
    parser.add_argument("--message", metavar="M", help="of the commit")
    parser.add_argument("--report", type=Path, metavar="DIR", help="what `sft-judge evaluate` wrote, as report/")
    parser.add_argument("--overwrite-card", action="store_true", help="lose what was edited in the card on the hub")


def run(args) -> None:
    from sft_judge.modeling.hub import push_folder
    from sft_judge.modeling.hub_card import CARD
    from sft_judge.modeling.judge_spec import read_spec
    from sft_judge.modeling.loading import check_model_folder
    from sft_judge.training.model_card import card_of

    spec = read_spec(args.model)
    check_model_folder(str(args.model))
    card = None if (args.model / CARD).is_file() else card_of(args.model, args.repo, spec)
    commit = push_folder(
        args.model,
        args.repo,
        private=args.private or None,
        revision=args.revision,
        card=card,
        report=args.report,
        overwrite_card=args.overwrite_card,
        **({"message": args.message} if args.message else {}),
    )
    print(f"{args.model} -> {commit.commit_url}")
