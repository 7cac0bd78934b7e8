"""What a judge did not see of the battles: the tokens that its budget left out, counted by its own tokenizer."""

import pyarrow as pa

from sft_judge.data.battles import FIELDS
from sft_judge.data.probs import Probs
from sft_judge.inference.calibrated import find_judge

ROWS_AT_ONCE = 1000


def cut_tokens(probs: Probs, battles: pa.Table) -> dict | None:
    """
    `{"n", "battles", "fields": {name: {"battles", "tokens"}}}`: how many battles were cut, and by how many tokens.

    None where the folder of the judge that made the probs file is not there: nothing is known of its budget.
    """
    folder = find_judge(probs.metadata, probs.path)
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return None
    from sft_judge.modeling.judge_spec import read_spec
    from sft_judge.modeling.loading import load_tokenizer  # transformers: seconds, and only this figure needs it
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
