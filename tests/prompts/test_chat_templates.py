"""Chat templates of all kinds, and none: the frame is the model's own, or one line says what is wrong with it."""

import copy
from importlib.resources import files

import pytest
from tokenizers.processors import TemplateProcessing

from helpers.prompt_cases import PAIR, WORDS
from sft_judge.core.errors import InputError
from sft_judge.core.resources import find_resource
from sft_judge.modeling.judge_spec import Budget
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.prompts.check import check_bos
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.verdict_tokens import choose_verdict_words, opened_thought

pytestmark = pytest.mark.unit

AS_PARTS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'][0]['text'] }}<|im_end|>\n{% endfor %}"
LOOPS_OVER_PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
)


def add_bos(tokenizer) -> None:
    """Have a tokenizer begin each text with BOS, as the real ones of its family do."""
    bos = tokenizer.bos_token
    added = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = added


def prompt_with(chat_template: str | None, family: str = "qwen3") -> JudgePrompt:
    tokenizer = copy.deepcopy(tokenizer_of(family))
    tokenizer.chat_template = chat_template
    return JudgePrompt(tokenizer, PAIR, WORDS, Budget())


@pytest.mark.parametrize("template", [AS_PARTS, LOOPS_OVER_PARTS])
def test_a_template_that_takes_content_as_parts_gets_parts(template):
    whole = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    assert prompt_with(template).frame(1, 2, 1, False) == prompt_with(whole).frame(1, 2, 1, False)


@pytest.mark.parametrize(
    "template, said",
    [
        ("{{ raise_exception('documents are required') }}", "documents are required"),
        ("{% for m in messages %}{{ m['content'] }", "unexpected '}'"),
        ("no message at all", "omits the text"),
        ("{{ messages[7]['content'] }}", "has no element 7"),
        ("{{ 1 + messages }}", "unsupported operand"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line_of_its_own(template, said):
    with pytest.raises(InputError, match="its chat template cannot be used") as refusal:
        prompt_with(template).frame(1, 1, 1, False)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_open_thought_before_the_answer_is_found():
    family = tokenizer_of("qwen3").chat_template
    assert opened_thought(prompt_with(family).tail) is None
    assert opened_thought(prompt_with(family.replace("<think>\\n\\n</think>", "<think>\\n")).tail) == "<think>"


@pytest.mark.parametrize(
    "name", ["pair", *(pytest.param(name, marks=pytest.mark.full) for name in ("compact", "rounds"))]
)
def test_without_a_chat_template_the_answer_follows_a_line_break_in_a_real_vocabulary(name):
    """Tekken has `:A` as one token: where the break is lost, every word merges with the text before it."""
    mistral = pytest.importorskip("transformers.integrations.mistral.tokenizer")
    pytest.importorskip("mistral_common", reason="tekken's vocabulary is in mistral-common (extra dev)")
    file = files("mistral_common").joinpath("data/tekken_240911.json")
    tokenizer = mistral.convert_tekken_tokenizer(str(file))
    tokenizer.chat_template = None
    assert len(tokenizer.encode(":A", add_special_tokens=False)) == 1
    template = find_resource("prompts", name).read_text(encoding="utf-8")
    words = choose_verdict_words(tokenizer, template, 3)
    prompt = JudgePrompt(tokenizer, template, words, Budget())
    assert prompt.tail.endswith("Answer:\n") and words == ["A", "B", "tie"]
    assert tokenizer.convert_ids_to_tokens(prompt.verdict_ids) == words


@pytest.mark.parametrize("family, begins", [("llama3", True), ("gemma", True), ("qwen2.5", False), ("phi4", False)])
def test_a_prompt_begins_with_bos_exactly_where_the_tokenizer_begins_a_text_with_it(family, begins):
    for template in (None, tokenizer_of(family).chat_template):
        prompt = prompt_with(template, family)
        if begins:
            add_bos(prompt.tokenizer)
        ids = prompt.frame(1, 1, 1, False).pieces[0]
        assert (ids[0] == prompt.tokenizer("a")["input_ids"][0]) == begins
        assert ids[:2].count(prompt.tokenizer.bos_token_id) == begins
        assert check_bos(prompt)[0].level == "ok"
    if begins:
        doubled = prompt_with("{{ bos_token }}" + tokenizer_of(family).chat_template, family)
        add_bos(doubled.tokenizer)
        assert check_bos(doubled)[0].level == "warning"


def test_a_template_that_gives_another_text_each_time_is_refused():
    whole = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    with pytest.raises(InputError, match="gives a different text each time"):
        for _ in range(5):  # each may come out alike by chance
            prompt_with(whole + "{{ range(99999) | random }}").frame(1, 1, 1, False)
