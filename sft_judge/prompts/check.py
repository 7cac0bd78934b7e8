"""
Check whether a model, its prompt, a budget and battles fit together, for `sft-judge prompt check`.

Each check returns findings of one line. `wrong` would break a run or its result, `warning` needs a decision by the
user, and `ok` says what was checked.
"""

import re
from dataclasses import astuple
from typing import NamedTuple

from jinja2 import Environment, meta, nodes

from sft_judge.core.errors import InputError
from sft_judge.data.battles import FIELDS
from sft_judge.modeling.judge_spec import FILE, Budget, JudgeSpec, read_spec
from sft_judge.modeling.loading import load_config
from sft_judge.prompts.identity import check_vocabulary
from sft_judge.prompts.prompt import Fields, JudgePrompt
from sft_judge.prompts.show import open_prompt
from sft_judge.prompts.templates import FIXED_DATE, PLAIN_CHAT_NOTE
from sft_judge.prompts.verdict_tokens import describe_thought, opened_thought, verdict_id

# variables that a chat template always gets, from transformers or from us
GIVEN = {
    *("messages", "add_generation_prompt", "enable_thinking", "strftime_now", "raise_exception", "namespace", "range"),
    *("tools", "documents"),
}
BATTLES_PER_BATCH = 1000  # battles tokenized at a time
BUDGET_KEYS = ("prompt_budget", "response_budget", "total_budget")  # settings of a recipe


class Finding(NamedTuple):
    """Represent one line of the check: `level` is ok, warning or wrong."""

    level: str
    text: str


def check_model(model: str, template: str | None, budget: tuple | None, rows: list[dict]) -> list[Finding]:
    """
    Return all findings about a model, its prompt, a budget and battles.

    Args:
        model: folder or Hub id.
        template: name or file of a prompt template for a plain model; None for a judge.
        budget: prompt, response and total budget, or None for the judge's own.
        rows: the battles.
    """
    prompt = open_prompt(model, template, budget, check=False)
    spec = read_spec(model) if template is None else None
    config = load_config(model).get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    return [
        *(verdicts := check_verdicts(prompt, spec)),
        *(check_embedding(prompt, config.vocab_size) if verdicts[0].level == "ok" else []),
        *check_budget(prompt, spec),
        *check_tokenizer(prompt),
        *check_bos(prompt),
        *check_chat_template(prompt.tokenizer),
        *check_battles(prompt, rows, positions),
    ]


def check_embedding(prompt: JudgePrompt, num_rows: int) -> list[Finding]:
    """
    Check that every token has a row in the model's embedding.

    Args:
        prompt: the prompt.
        num_rows: number of rows of the embedding.
    """
    try:
        check_vocabulary(prompt, num_rows)
    except InputError as error:
        return [Finding("wrong", str(error))]
    return [Finding("ok", f"every token has a row in the embedding, which has {num_rows} rows")]


def check_verdicts(prompt: JudgePrompt, spec: JudgeSpec | None) -> list[Finding]:
    """
    Check that the verdict words are distinct single tokens at the answer position, and the same as in judge.json.

    Also compare them with their tokens after a space (" A" against "A").

    Args:
        prompt: the prompt.
        spec: the judge's judge.json; None for a plain model.
    """
    try:
        ids = prompt.verdict_ids
    except InputError as error:
        return [Finding("wrong", str(error))]
    tokens = ", ".join(f"{word!r} = {token}" for word, token in zip(prompt.words, ids, strict=True))
    findings = [Finding("ok", f"each verdict word is one token at the answer position: {tokens}")]
    if spec and spec.verdict_ids != ids:
        findings.append(Finding("wrong", f"the tokenizer gives verdict ids {ids}, but {FILE} has {spec.verdict_ids}"))
    spaced = [_spaced_id(prompt, word) for word in prompt.words]
    if any(other not in (None, token) for other, token in zip(spaced, ids, strict=True)):
        other = ", ".join(
            f"{' ' + word!r} = {token or 'several'}" for word, token in zip(prompt.words, spaced, strict=True)
        )
        glued = not prompt.tail.endswith("\n") and not _ends_on_control_token(prompt)
        findings.append(
            Finding(
                "warning" if glued else "ok",
                f"with a space before them they are other tokens ({other}); the judge uses those without, after "
                f"{prompt.tail[-12:]!r}" + (", where a model would more likely write a space" if glued else ""),
            )
        )
    return findings


def check_budget(prompt: JudgePrompt, spec: JudgeSpec | None) -> list[Finding]:
    """
    Check that the prompt's budget, judge.json's and the one used in training are the same.

    Args:
        prompt: the prompt.
        spec: the judge's judge.json; None for a plain model.
    """
    if spec is None:
        return []
    findings = []
    recipe = spec.training.get("recipe", {})
    budgets = {"served": prompt.budget, FILE: spec.budget}
    if all(key in recipe for key in BUDGET_KEYS):
        budgets["trained"] = Budget(*(recipe[key] for key in BUDGET_KEYS))
    listing = ", ".join(f"{name} {'/'.join(map(str, astuple(budget)))}" for name, budget in budgets.items())
    if len(set(map(astuple, budgets.values()))) > 1:
        findings.append(Finding("warning", f"the budget differs (prompt/response/total): {listing}"))
    else:
        findings.append(Finding("ok", f"the budget is the same everywhere (prompt/response/total): {listing}"))
    return findings


def check_tokenizer(prompt: JudgePrompt) -> list[Finding]:
    """Check that there is a pad token, and that the answer is not inside the model's reasoning."""
    findings = []
    tokenizer = prompt.tokenizer
    if tokenizer.pad_token_id is None:
        findings.append(Finding("wrong", "the tokenizer has no pad token and no end token, so it cannot pad a batch"))
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        findings.append(
            Finding("ok", f"the end token {tokenizer.pad_token!r} is the pad token; the attention mask hides padding")
        )
    thought = opened_thought(prompt.tail)
    if thought:
        findings.append(Finding("warning", describe_thought(thought)))
    return findings


def check_bos(prompt: JudgePrompt) -> list[Finding]:
    """Check that the prompt starts with BOS exactly if the tokenizer starts a text with BOS."""
    tokenizer, ids = prompt.tokenizer, prompt.frame(1, 1, 1, False).pieces[0]
    bos = tokenizer.bos_token_id
    wanted = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    times = next((place for place, token in enumerate(ids) if token != bos), len(ids)) if bos is not None else 0
    if wanted and times != 1:
        return [
            Finding(
                "warning",
                f"the tokenizer starts a text with BOS ({tokenizer.bos_token!r}), but the prompt has it {times} times",
            )
        ]
    how = f"starts with BOS ({tokenizer.bos_token!r})" if times else "starts without BOS"
    return [Finding("ok", f"the prompt {how}, as in the tokenizer's own encoding")]


def check_chat_template(tokenizer) -> list[Finding]:
    """Check which variables of a chat template are fixed or left at their defaults, such as the date."""
    if tokenizer.chat_template is None:
        return [Finding("warning", f"the model has no chat template: {PLAIN_CHAT_NOTE}")]
    text = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", tokenizer.get_chat_template())  # a tag of transformers
    tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    asked = meta.find_undeclared_variables(tree)
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    settings = sorted(asked - own - GIVEN - set(tokenizer.special_tokens_map))
    findings = []
    if "strftime_now" in asked:
        findings.append(
            Finding("ok", f"the chat template prints the date; it is fixed to {FIXED_DATE}, so prompts do not change")
        )
    if settings:
        findings.append(
            Finding("ok", f"variables of the chat template, left at their defaults: {', '.join(settings)}")
        )
    return findings


def check_battles(prompt: JudgePrompt, rows: list[dict], positions: int | None) -> list[Finding]:
    """
    Check lengths against the budget and the context, truncation by field, control tokens, and seams between fields.

    Args:
        prompt: the prompt.
        rows: the battles.
        positions: number of positions of the model, or None if unknown.
    """
    counts = dict.fromkeys((*FIELDS, "seams", "control"), 0)
    longest = 0
    for start in range(0, len(rows), BATTLES_PER_BATCH):
        part = rows[start : start + BATTLES_PER_BATCH]
        for fields in prompt.fit(part):
            ids = prompt.ids(fields)
            longest = max(longest, len(ids) + 1)
            counts["seams"] += (
                prompt.tokenizer(prompt.tokenizer.decode(ids), add_special_tokens=False)["input_ids"] != ids
            )
            counts["control"] += control_tokens(prompt, fields)
            for name in FIELDS:
                counts[name] += fields.cut[name] > 0
    lost = f"; {prompt.replaced} characters are not in the vocabulary and become U+FFFD" if prompt.replaced else ""
    cut = ", ".join(f"{name} {counts[name]} ({counts[name] / len(rows):.1%})" for name in FIELDS)
    lengths = f"{len(rows)} battles, the longest has {longest} tokens of {prompt.budget.total}"
    return [
        *_check_context(prompt.budget.total, longest, positions),
        Finding("ok", f"{lengths}; truncated by the budget: {cut}{lost}"),
        *([Finding("ok", _count_languages(rows))] if prompt.language else []),
        Finding("wrong" if counts["control"] else "ok", f"control tokens in the text of fields: {counts['control']}"),
        Finding(
            "ok",
            f"{counts['seams']} of {len(rows)} battles would have other tokens as one text: fields are tokenized "
            "separately, in training and in serving",
        ),
    ]


def _count_languages(rows: list[dict]) -> str:
    none = sum(not row.get("language") for row in rows)
    return f"language: detected from the prompt in {none} of {len(rows)} battles, which do not state it"


def control_tokens(prompt: JudgePrompt, fields: Fields) -> int:
    """
    Count the tokens of the fields that are added tokens (including control tokens), except spaces and line breaks.

    Args:
        prompt: the prompt.
        fields: the tokens of a battle.
    """
    added = prompt.tokenizer.added_tokens_decoder.items()
    control = {token for token, added_token in added if added_token.content.strip(" \t\r\n▁")}
    turns = [*fields.prompt, *fields.response_a, *fields.response_b, fields.language or []]
    return sum(token in control for turn in turns for token in turn)


def _check_context(total: int, longest: int, positions: int | None) -> list[Finding]:
    if positions is None or total <= positions:
        return [] if positions is None else [Finding("ok", f"the context of {positions} holds the budget of {total}")]
    needs = (
        f"and the longest battle has {longest}" if longest > positions else f"but no battle has more than {longest}"
    )
    return [Finding("wrong", f"the model's context is {positions} tokens, the budget is {total}, {needs}")]


def _spaced_id(prompt: JudgePrompt, word: str) -> int | None:
    try:
        return verdict_id(prompt.tokenizer, prompt.tail, " " + word)
    except InputError:
        return None


def _ends_on_control_token(prompt: JudgePrompt) -> bool:
    last = prompt.frame(1, 1, 1, False).pieces[-1][-1]
    return last in prompt.tokenizer.added_tokens_decoder
