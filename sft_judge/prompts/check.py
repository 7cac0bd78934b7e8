"""
What `sft-judge prompt check` says: whether a model, its prompt, a budget and the battles go together.

Each check gives findings, one line each. `wrong` would break a run or its result, `warning` is for a person to decide,
`ok` says what was looked at.
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

# what a chat template is always given, by transformers or by us
GIVEN = {
    *("messages", "add_generation_prompt", "enable_thinking", "strftime_now", "raise_exception", "namespace", "range"),
    *("tools", "documents"),
}
BATTLES_PER_BATCH = 1000  # battles tokenised at a time
BUDGET_KEYS = ("prompt_budget", "response_budget", "total_budget")  # what a recipe calls them


class Finding(NamedTuple):
    """One line of the check: `level` is ok, warning or wrong."""

    level: str
    text: str


def check_model(model: str, template: str | None, budget: tuple | None, rows: list[dict]) -> list[Finding]:
    """All findings of a model, its prompt, a budget and battles."""
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
    """Whether every token has a row in the model's embedding."""
    try:
        check_vocabulary(prompt, num_rows)
    except InputError as error:
        return [Finding("wrong", str(error))]
    return [Finding("ok", f"every token has one of the {num_rows} rows of the embedding")]


def check_verdicts(prompt: JudgePrompt, spec: JudgeSpec | None) -> list[Finding]:
    """Verdict words: one token each where the answer stands, distinct, those of judge.json; " A" against "A"."""
    try:
        ids = prompt.verdict_ids
    except InputError as error:
        return [Finding("wrong", str(error))]
    tokens = ", ".join(f"{word!r} = {token}" for word, token in zip(prompt.words, ids, strict=True))
    findings = [Finding("ok", f"the verdict words are one token each where the answer stands: {tokens}")]
    if spec and spec.verdict_ids != ids:
        findings.append(Finding("wrong", f"the tokenizer gives verdict ids {ids}, {FILE} {spec.verdict_ids}"))
    spaced = [_spaced_id(prompt, word) for word in prompt.words]
    if any(other not in (None, token) for other, token in zip(spaced, ids, strict=True)):
        other = ", ".join(
            f"{' ' + word!r} = {token or 'several'}" for word, token in zip(prompt.words, spaced, strict=True)
        )
        glued = not prompt.tail.endswith("\n") and not _ends_on_control_token(prompt)
        findings.append(
            Finding(
                "warning" if glued else "ok",
                f"with a space before them they are other tokens ({other}); the judge reads those without, after "
                f"{prompt.tail[-12:]!r}" + (", where a model would rather write a space" if glued else ""),
            )
        )
    return findings


def check_budget(prompt: JudgePrompt, spec: JudgeSpec | None) -> list[Finding]:
    """Whether the budget served, judge.json's and the one trained with are the same."""
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
        findings.append(Finding("ok", f"one budget (prompt/response/total): {listing}"))
    return findings


def check_tokenizer(prompt: JudgePrompt) -> list[Finding]:
    """A pad token, and an answer that does not stand inside the model's thoughts."""
    findings = []
    tokenizer = prompt.tokenizer
    if tokenizer.pad_token_id is None:
        findings.append(Finding("wrong", "the tokenizer has no pad token and no end token, so no batch can be made"))
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        findings.append(Finding("ok", f"the end token {tokenizer.pad_token!r} pads, which the attention mask hides"))
    thought = opened_thought(prompt.tail)
    if thought:
        findings.append(Finding("warning", describe_thought(thought)))
    return findings


def check_bos(prompt: JudgePrompt) -> list[Finding]:
    """Whether the prompt begins with BOS exactly where the tokenizer begins a text with it."""
    tokenizer, ids = prompt.tokenizer, prompt.frame(1, 1, 1, False).pieces[0]
    bos = tokenizer.bos_token_id
    wanted = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    times = next((place for place, token in enumerate(ids) if token != bos), len(ids)) if bos is not None else 0
    if wanted and times != 1:
        return [
            Finding(
                "warning",
                f"the tokenizer begins a text with BOS ({tokenizer.bos_token!r}), but the prompt has it {times} times",
            )
        ]
    how = f"begins with BOS ({tokenizer.bos_token!r})" if times else "begins without BOS"
    return [Finding("ok", f"the prompt {how}, as the tokenizer begins a text")]


def check_chat_template(tokenizer) -> list[Finding]:
    """What was fixed of a chat template that asks for the date or for settings."""
    if tokenizer.chat_template is None:
        return [Finding("warning", f"the model has no chat template: {PLAIN_CHAT_NOTE}")]
    text = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", tokenizer.get_chat_template())  # a tag of transformers' own
    tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    asked = meta.find_undeclared_variables(tree)
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    settings = sorted(asked - own - GIVEN - set(tokenizer.special_tokens_map))
    findings = []
    if "strftime_now" in asked:
        findings.append(
            Finding("ok", f"the chat template prints today's date; it is fixed at {FIXED_DATE}, so days do not differ")
        )
    if settings:
        findings.append(Finding("ok", f"settings of the chat template, left at its defaults: {', '.join(settings)}"))
    return findings


def check_battles(prompt: JudgePrompt, rows: list[dict], positions: int | None) -> list[Finding]:
    """Lengths against the budget and the context, cuts by field, control tokens, and seams between fields."""
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
    lost = f"; {prompt.replaced} characters that the vocabulary cannot spell become U+FFFD" if prompt.replaced else ""
    cut = ", ".join(f"{name} {counts[name]} ({counts[name] / len(rows):.1%})" for name in FIELDS)
    lengths = f"{len(rows)} battles, the longest {longest} tokens of {prompt.budget.total}"
    return [
        *_check_context(prompt.budget.total, longest, positions),
        Finding("ok", f"{lengths}; cut by the budget: {cut}{lost}"),
        *([Finding("ok", _count_languages(rows))] if prompt.language else []),
        Finding("wrong" if counts["control"] else "ok", f"control tokens from fields: {counts['control']}"),
        Finding(
            "ok",
            f"{counts['seams']} of {len(rows)} would tokenise otherwise as one text: fields are tokenised alone, in "
            "training and in serving",
        ),
    ]


def _count_languages(rows: list[dict]) -> str:
    none = sum(not row.get("language") for row in rows)
    return f"language: {none} of {len(rows)} battles state none, and it is detected from their prompts"


def control_tokens(prompt: JudgePrompt, fields: Fields) -> int:
    """How many tokens of the fields are added tokens (control tokens among them), spaces and line breaks apart."""
    added = prompt.tokenizer.added_tokens_decoder.items()
    control = {token for token, added_token in added if added_token.content.strip(" \t\r\n▁")}
    turns = [*fields.prompt, *fields.response_a, *fields.response_b, fields.language or []]
    return sum(token in control for turn in turns for token in turn)


def _check_context(total: int, longest: int, positions: int | None) -> list[Finding]:
    if positions is None or total <= positions:
        return [] if positions is None else [Finding("ok", f"the context of {positions} holds the budget of {total}")]
    needs = (
        f"and the longest battle has {longest}" if longest > positions else f"though no battle has more than {longest}"
    )
    return [Finding("wrong", f"the model's context is {positions} tokens, the budget {total}, {needs}")]


def _spaced_id(prompt: JudgePrompt, word: str) -> int | None:
    try:
        return verdict_id(prompt.tokenizer, prompt.tail, " " + word)
    except InputError:
        return None


def _ends_on_control_token(prompt: JudgePrompt) -> bool:
    last = prompt.frame(1, 1, 1, False).pieces[-1][-1]
    return last in prompt.tokenizer.added_tokens_decoder
