"""
Make a judge from a plain model, zero-shot or few-shot, as a baseline for training.

The verdict is read from the first token: the logits of the answer letters and a softmax over them, as in C-Eval (Huang
et al. 2023, section 4). Solved battles become part of the template's text, so that all later stages show them.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import InputError
from sft_judge.core.verdicts import verdict_names
from sft_judge.data.battles import FIELDS
from sft_judge.data.injection import find_injections
from sft_judge.modeling.hub import model_folder
from sft_judge.modeling.judge_spec import FILE, Budget, JudgeSpec, write_spec
from sft_judge.modeling.loading import load_config, load_tokenizer
from sft_judge.prompts.identity import check_vocabulary, record_prompt
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.templates import FrameTemplate
from sft_judge.prompts.verdict_tokens import choose_verdict_words

MAX_SHOT_CHARACTERS = 600  # maximum number of characters of a solved battle
_USER = re.compile(r"\{%-?\s*block\s+user\s*-?%\}")


def make_untrained(
    model: str, output: Path, template: str, num_verdicts: int, budget: Budget, shots: list[dict]
) -> JudgeSpec:
    """
    Make a judge from a plain model: its files (as links if possible), and a judge.json of the template with the shots.

    Args:
        model: folder or Hub id of a plain model.
        output: folder to write into.
        template: text of the prompt template.
        num_verdicts: K, 2 or 3.
        budget: token budgets.
        shots: solved battles to show first.

    Raises:
        InputError: the model is an adapter or a judge, or a verdict is not a single token.
    """
    source = Path(model_folder(model)[0])
    if (source / FILE).is_file() or (source / "adapter_config.json").is_file():
        raise InputError(f"{model} is already a judge or an adapter; an untrained judge needs a plain model.")
    tokenizer = load_tokenizer(str(source))
    words = choose_verdict_words(tokenizer, template, num_verdicts)
    text = add_shots(template, shots, words)
    prompt = JudgePrompt(tokenizer, text, words, budget)
    check_vocabulary(prompt, load_config(str(source)).get_text_config().vocab_size)
    spec = JudgeSpec(words, prompt.verdict_ids, text, budget, frame=record_prompt(prompt))
    spec.training = {"base": str(model), "status": "untrained", "shots": len(shots)}
    for file in source.iterdir():
        if file.is_file() and file.suffix in (".json", ".safetensors", ".jinja", ".model", ".txt"):
            _link(file.resolve(), output / file.name)
    write_spec(output, spec, bind=True)
    return spec


def add_shots(template: str, shots: list[dict], words: list[str]) -> str:
    """
    Add solved battles to the start of a template's user turn, each rendered by the template itself.

    Args:
        template: text of the template.
        shots: battles with a verdict.
        words: the verdict words.
    """
    if not shots:
        return template
    frame, names = FrameTemplate(template), verdict_names(len(words))
    solved = [f"{frame.user(shot, words)}\nAnswer: {words[names.index(shot['verdict'])]}\n\n" for shot in shots]
    opening = _USER.search(template)
    return template[: opening.end()] + "\n{% raw %}" + "".join(solved) + "{% endraw %}\n" + template[opening.end() :]


def choose_shots(battles: pa.Table, count: int, num_verdicts: int, seed: int = 0) -> list[dict]:
    """
    Choose short battles with a verdict, with different prompts and with each verdict in turn.

    Battles whose text resembles a control token, a tag or a template are skipped, because the text becomes part of the
    template.

    Args:
        battles: the battles.
        count: number of battles to choose.
        num_verdicts: K, 2 or 3.
        seed: seed of the draw.

    Raises:
        InputError: there are too few such battles.
    """
    names, shots, asked = verdict_names(num_verdicts), [], set()
    rows = battles.take(np.random.default_rng(seed).permutation(battles.num_rows)).to_pylist()
    fit = [row for row in rows if row["verdict"] in names and _harmless(row)]
    while len(shots) < count:
        wanted = names[len(shots) % len(names)]
        row = next((row for row in fit if row["verdict"] == wanted and tuple(row["prompt"]) not in asked), None)
        if row is None:
            raise InputError(
                f"Shot {len(shots) + 1} cannot be chosen: of {battles.num_rows} battles, {len(fit)} have a verdict, "
                f"at most {MAX_SHOT_CHARACTERS} characters and no text like control tokens, and none of the remaining "
                f"ones has the verdict {wanted!r}. Give more battles or fewer --shots."
            )
        asked.add(tuple(row["prompt"]))
        shots.append(row)
    return shots


def _harmless(row: dict) -> bool:
    turns = [turn for name in FIELDS for turn in row[name]]
    short = sum(map(len, turns)) <= MAX_SHOT_CHARACTERS
    return short and not any("{%" in turn for turn in turns) and not find_injections(pa.array(turns, pa.string()))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
