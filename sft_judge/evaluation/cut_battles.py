"""Tokens that the judge's budget cuts from the battles, counted with the judge's own tokenizer."""

import pyarrow as pa

from sft_judge.data.battles import FIELDS
from sft_judge.data.probs import Probs
from sft_judge.inference.calibrated import find_judge

ROWS_AT_ONCE = 1000


def cut_tokens(probs: Probs, battles: pa.Table) -> dict | None:
    """
    Count the battles that the judge's budget cuts, and the tokens left out.

    Args:
        probs: the judge's probs file.
        battles: the battles.

    Returns:
        `{"n", "battles", "fields": {name: {"battles", "tokens"}}}`, or None if the folder of the judge that made the
        probs file is missing, as its budget is then unknown.
    """
    folder = find_judge(probs.metadata, probs.path)
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return None
    from sft_judge.modeling.judge_spec import read_spec
    from sft_judge.modeling.loading import load_tokenizer  # importing transformers takes seconds; only needed here
    from sft_judge.prompts.prompt import JudgePrompt

    prompt = JudgePrompt.of(load_tokenizer(str(folder)), read_spec(folder))
    counts = {"n": battles.num_rows, "battles": 0, "fields": {name: {"battles": 0, "tokens": 0} for name in FIELDS}}
    for start in range(0, battles.num_rows, ROWS_AT_ONCE):
        for fields in prompt.fit(battles.slice(start, ROWS_AT_ONCE).to_pylist()):
            counts["battles"] += any(fields.cut.values())
            for name, tokens in fields.cut.items():
                counts["fields"][name]["battles"] += tokens > 0
                counts["fields"][name]["tokens"] += tokens
    return counts
