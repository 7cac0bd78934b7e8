"""
Push a judge to the Hugging Face Hub; `Judge.load(ID)` and --model ID of every command load it from there.

Weights, tokenizer, judge.json with its calibration, the model card, --report and manifests (without paths of this
machine) are uploaded. Checkpoints, unfinished work and pickled files are not. The folder itself is not changed. The
code snippet in the card names the repository. A card that was edited on the Hub since the last push is not replaced.
"""

from pathlib import Path

EXAMPLE = "sft-judge push runs/judge --repo me/judge --private"


def add_arguments(parser):
    parser.add_argument("model", type=Path, metavar="DIR", help="folder of a judge, in any form")
    parser.add_argument("--repo", required=True, metavar="ID", help="NAMESPACE/NAME, or NAME in your own namespace")
    parser.add_argument(
        "--private", action="store_true", help="make the repository private; an existing public one is refused"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to, created if needed (main)")
    parser.add_argument("--message", metavar="M", help="commit message")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="output folder of `sft-judge evaluate`, uploaded as report/"
    )
    parser.add_argument("--overwrite-card", action="store_true", help="replace a card that was edited on the Hub")


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
