"""
A plain model as a judge, zero-shot or few-shot: what training has to beat (first-token read-out as in C-Eval, Huang et
al. 2023, section 4: the logits of the answers' letters, and a softmax among them).

Solved battles become part of the template's text, so every later stage shows them as it shows any template.
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

MAX_SHOT_CHARACTERS = 600  # characters of a battle that is shown as solved
_USER = re.compile(r"\{%-?\s*block\s+user\s*-?%\}")


def make_untrained(
    model: str, output: Path, template: str, num_verdicts: int, budget: Budget, shots: list[dict]
) -> JudgeSpec:
    """
    Write the model's files (links where the disk allows) and a judge.json of the template with `shots` before it.

    Raises `InputError` for an adapter, a judge, or verdicts that are no single tokens.
    """
    source = Path(model_folder(model)[0])
    if (source / FILE).is_file() or (source / "adapter_config.json").is_file():
        raise InputError(f"{model} is a judge or an adapter already; an untrained judge is made of a plain model.")
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
    """The text of a template whose user turn begins with solved battles, each as the template itself would show it."""
    if not shots:
        return template
    frame, names = FrameTemplate(template), verdict_names(len(words))
    solved = [f"{frame.user(shot, words)}\nAnswer: {words[names.index(shot['verdict'])]}\n\n" for shot in shots]
    opening = _USER.search(template)
    return template[: opening.end()] + "\n{% raw %}" + "".join(solved) + "{% endraw %}\n" + template[opening.end() :]


def choose_shots(battles: pa.Table, count: int, num_verdicts: int, seed: int = 0) -> list[dict]:
    """
    `count` short battles with a verdict, drawn by the seed, the verdicts in turns; of different prompts.

    None whose text could be taken for a control token, a tag or a template: here it becomes part of the frame. Raises
    `InputError` where there are too few.
    """
    names, shots, asked = verdict_names(num_verdicts), [], set()
    rows = battles.take(np.random.default_rng(seed).permutation(battles.num_rows)).to_pylist()
    fit = [row for row in rows if row["verdict"] in names and _harmless(row)]
    while len(shots) < count:
        wanted = names[len(shots) % len(names)]
        row = next((row for row in fit if row["verdict"] == wanted and tuple(row["prompt"]) not in asked), None)
        if row is None:
            raise InputError(
                f"No {len(shots) + 1} battles to show as solved: of {battles.num_rows}, {len(fit)} have a verdict, at "
                f"most {MAX_SHOT_CHARACTERS} characters and no text like control tokens; the next one is to be "
                f"{wanted!r}. Give "
                "more battles or fewer --shots."
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
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
