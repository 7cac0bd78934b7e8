"""
Inspect battles before training.

Writes audit.json and audit.html, a single file that loads nothing from elsewhere. They report rows by source,
language, verdict, number of turns and fold; text lengths in characters and in the tokens of each --model, with the
share of battles that a total budget would cut; how often the first and the longer answer win, and whether A and B
differ in length; models; duplicates; prompts with duplicates or near-duplicates in another fold, by the grouping that
assigns folds; and text that looks like a control token, a tag, an order or a verdict. The page shows no text of a
battle unless --examples is given.
"""

from functools import partial

from sft_judge.commands.arguments import add_limit, judge_path, positive, seed
from sft_judge.commands.console import print_tables
from sft_judge.core.files import InputPath, OutputPath, whole_folder, write_json
from sft_judge.core.model_files import name_of
from sft_judge.core.progress import Progress

EXAMPLE = "sft-judge audit battles.parquet --model runs/demo/judge --output runs/audit"


def add_arguments(parser):
    parser.add_argument("battles", type=InputPath, metavar="BATTLES", help="battles, prepared or not")
    parser.add_argument("--output", type=OutputPath, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--model",
        type=judge_path,
        action="append",
        default=[],
        metavar="DIR",
        help="judge or plain model whose tokens are counted; a plain model gets --prompt-template. Can be repeated",
    )
    parser.add_argument(
        "--prompt-template", default="pair", metavar="NAME", help="prompt template of plain models (pair)"
    )
    parser.add_argument(
        "--examples",
        type=positive,
        metavar="N",
        help="show the text of N battles: the longest, some with control tokens, others",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed for the choice of examples (0)")
    add_limit(parser)


def run(args) -> dict:
    from sft_judge.data.audit import audit_battles
    from sft_judge.data.battles import open_battles
    from sft_judge.data.examples import choose_examples, read_rows
    from sft_judge.evaluation.audit_report import render_audit

    file = open_battles(args.battles, args.limit)
    measures = {name_of(model): token_measure(str(model), args.prompt_template) for model in dict.fromkeys(args.model)}
    with Progress("audit", file.num_rows) as progress:
        tally = audit_battles(file, measures, progress.add)
    audit = tally.audit()
    chosen = choose_examples(tally.total_lengths(), tally.rows_with_injections(), args.examples or 0, args.seed)
    examples = [(why, row) for row, why in zip(read_rows(file, list(chosen)), chosen.values(), strict=True)]
    audit["examples"] = [{"id": row["id"], "why": why} for why, row in examples]
    tables, page = render_audit(args.battles.name, audit, examples)
    with whole_folder(args.output) as folder:
        write_json(folder / "audit.json", audit)
        (folder / "audit.html").write_text(page, encoding="utf-8")
    print_tables(tables)
    print(f"page: {args.output / 'audit.html'}")
    return {"audit": {name: audit[name] for name in ("rows", "leaks", "duplicates")}}


def token_measure(model: str, template: str):
    """
    Return a function from battles `[N]` to token counts `[N, 4]`.

    The columns are the prompt, response a, response b, and the whole sequence with its verdict. Nothing is cut.

    Args:
        model: a judge, which has its own template, or a plain model.
        template: prompt template of a plain model.
    """
    from pathlib import Path

    from sft_judge.modeling.judge_spec import FILE, Budget
    from sft_judge.prompts.show import open_prompt

    prompt = open_prompt(model, None if (Path(model) / FILE).is_file() else template)
    endless = 2**40
    prompt.budget = Budget(endless, endless, endless)
    return partial(_count_tokens, prompt)


def _count_tokens(prompt, battles):
    import numpy as np

    from sft_judge.data.battles import FIELDS

    rows = []
    for start in range(0, battles.num_rows, 500):
        for fields in prompt.fit(battles.slice(start, 500).to_pylist()):
            lengths = [sum(map(len, getattr(fields, name))) for name in FIELDS]
            rows.append([*lengths, len(prompt.ids(fields)) + 1])
    return np.array(rows)
