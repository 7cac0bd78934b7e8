"""
The trainer's loss and gradients against a naive computation over full logits, family by family.

Naive: each row alone, without padding, through the model as it comes from transformers; the whole vocabulary's logits
at the last position of the prompt; torch's cross-entropy over the verdicts' columns.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from sft_judge.core.errors import InputError
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.modeling.verdict_head import dense_gradients
from sft_judge.training.collator import VerdictCollator
from sft_judge.training.config import JudgeConfig
from sft_judge.training.verdict_trainer import VerdictTrainer

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 16, "attn_implementation": "eager"}
FAMILIES = {
    "qwen2": {"tie_word_embeddings": True},
    "gemma2": {**GEMMA, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 3.0},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "router_aux_loss_coef": 0.1,
    },
    "qwen3": {},
    "gemma3_text": GEMMA,
    "gemma3": {  # with the image tower, as AutoModelForCausalLM loads it
        "text_config": {**SIZES, **GEMMA},
        "vision_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28},
        "mm_tokens_per_image": 4,
        "attn_implementation": "eager",
    },
    "llama": {},
    "phi3": {},
    "mistral": {"sliding_window": 16},
    "granite": {"logits_scaling": 4.0},  # for its logit scale
}
VERDICTS = [300, 17, 401]
pytestmark = pytest.mark.unit


def make_model(family: str, tied: bool, lora: bool):
    kind = FAMILIES[family]
    options = {key: value for key, value in kind.items() if key == "attn_implementation"}
    sizes = {**SIZES, **kind}
    if "text_config" in kind:
        sizes = {**kind, "text_config": {**kind["text_config"], "tie_word_embeddings": tied}}
    sizes = {key: value for key, value in sizes.items() if key not in options}
    config = AutoConfig.for_model(family, **{**sizes, "tie_word_embeddings": tied})
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return model.train()


def examples(num_verdicts: int) -> list[dict]:
    """Three battles in both orders; targets soft and hard, a teacher, weights."""
    draw = torch.Generator().manual_seed(2)
    made = []
    for row in range(3):
        lengths = torch.randint(5, 40, (2,), generator=draw).tolist()
        ids = [torch.randint(3, 512, (length,), generator=draw).tolist() + [VERDICTS[0]] for length in lengths]
        soft = torch.softmax(torch.randn(2, 2, num_verdicts, generator=draw), dim=-1).tolist()
        made.append(
            {
                "input_ids": ids,
                "targets": soft[0],
                "teacher": [[each] for each in soft[1]],
                "weight": 0.5 + row,
                "row": row,
                "length": sum(lengths) + 2,
            }
        )
    return made


def naive_loss(model, rows: list[dict], num_verdicts: int) -> torch.Tensor:
    """0.3 of cross-entropy, 0.7 of distillation at temperature 2; the mean over rows, weighted."""
    total = 0.0
    for row in rows:
        for ids, target, teacher in zip(row["input_ids"], row["targets"], row["teacher"], strict=True):
            whole = model(input_ids=torch.tensor([ids[:-1]])).logits[0, -1]
            logits = whole[VERDICTS[:num_verdicts]]
            hard = F.cross_entropy(logits, torch.tensor(target))
            softened = torch.softmax(torch.tensor(teacher[0]).log() / 2, dim=0)
            kl = F.kl_div(torch.log_softmax(logits / 2, dim=0), softened, reduction="sum") * 4
            total = total + row["weight"] * (0.3 * hard + 0.7 * kl)
    return total / (2 * len(rows))


def on_the_left(batch: dict) -> dict:
    """The batch with its padding before the rows."""
    shifts = (batch["attention_mask"] == 0).sum(dim=1)
    rolled = {
        name: torch.stack([row.roll(int(shift)) for row, shift in zip(batch[name], shifts, strict=True)])
        for name in ("input_ids", "attention_mask", "labels")
    }
    assert shifts.max() > 0 and (rolled["attention_mask"][:, -1] == 1).all()
    places = (rolled["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)  # else rotary embeddings round otherwise
    return {**batch, **rolled, "position_ids": places, "positions": batch["positions"] + shifts}


def gradients(model) -> dict:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def loss_and_gradients(trainer: VerdictTrainer, batch: dict) -> tuple[torch.Tensor, dict]:
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(6))
    loss.backward()
    dense_gradients(trainer.model)
    return loss, gradients(trainer.model)


def largest_errors(seen: tuple[torch.Tensor, dict], wanted: tuple[torch.Tensor, dict]) -> tuple[float, float]:
    """Of the loss, and of any weight's gradient."""
    assert seen[1].keys() == wanted[1].keys()
    return abs(seen[0] - wanted[0]).item(), max(
        (seen[1][name] - each).abs().max().item() for name, each in wanted[1].items()
    )


def judge_trainer(model, rows, folder, num_verdicts=3, **more) -> VerdictTrainer:
    config = JudgeConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        distill_weight=0.7,
        distill_temperature=2.0,
        router_aux_loss_coef=0.0 if "moe" in model.config.model_type else None,
        **more,
    )
    return VerdictTrainer(
        model=model,
        args=config,
        processing_class=tokenizer_of("qwen2.5"),
        train_dataset=Dataset.from_list(rows),
        verdict_ids=VERDICTS[:num_verdicts],
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_verdicts, tied, lora", [(3, True, False), (2, False, False), (3, False, True)])
def test_loss_and_gradients_are_those_of_full_logits(family, num_verdicts, tied, lora, tmp_path):
    naive = make_model(family, tied, lora)
    model, rows = copy.deepcopy(naive), examples(num_verdicts)
    trainer = judge_trainer(model, rows, tmp_path, num_verdicts)
    expected = naive_loss(naive, rows, num_verdicts)
    expected.backward()
    wanted = gradients(naive)
    assert max(gradient.abs().max() for gradient in wanted.values()) > 1e-3
    batch = trainer.data_collator(rows)
    for side, padded in (("right", batch), ("left", on_the_left(batch))):
        difference, error = largest_errors(loss_and_gradients(trainer, padded), (expected, wanted))
        print(f"{family} K={num_verdicts} tied={tied} lora={lora} {side}: {difference:.1e} {error:.1e}")
        assert difference < 1e-5 and error < 1e-5


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"qwen3_moe"}))
@pytest.mark.parametrize("lora, again", [(False, False), (True, True)], ids=["all weights", "LoRA, checkpointing"])
def test_the_last_layer_at_the_answers_alone_has_the_loss_and_gradients_of_all(family, lora, again, tmp_path):
    naive = make_model(family, False, lora)
    model, rows = copy.deepcopy(naive), examples(3)
    trainer = judge_trainer(model, rows, tmp_path, last_layer_at_answer=True)
    if again:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    expected = naive_loss(naive, rows, 3)
    expected.backward()
    wanted, work = gradients(naive), []
    model.get_decoder().layers[-1].mlp.down_proj.register_forward_hook(
        lambda module, inputs, output: work.append(output.shape[:-1].numel())
    )
    batch = trainer.data_collator(rows)
    flat = VerdictCollator(0, padding_free=True)(rows)
    for each in (batch, on_the_left(batch), flat):
        assert max(largest_errors(loss_and_gradients(trainer, each), (expected, wanted))) < 1e-5
    assert set(work) == {6}  # of some two hundred tokens
    tokens = {name: flat[name] for name in ("input_ids", "position_ids")} | {"use_cache": False}
    trainer.verdict_head.release()
    with torch.no_grad():
        torch.testing.assert_close(model(**tokens).logits, naive(**tokens).logits)


def test_a_training_step_and_an_evaluation_leave_the_last_layer_whole(tmp_path):
    model, rows = make_model("qwen2", True, False), examples(3)
    trainer = judge_trainer(model, rows, tmp_path, last_layer_at_answer=True)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    ids = torch.tensor([rows[0]["input_ids"][0]])
    for step in (trainer.training_step, lambda *args: trainer.prediction_step(*args, False)):
        step(model, trainer.data_collator(rows))
        for layer in (model.get_decoder().layers[-1].self_attn.q_proj, model.get_decoder().layers[-1].mlp):
            assert layer(torch.randn(1, ids.shape[1], 64)).abs().sum(dim=-1).min() > 0


def test_a_mixture_of_experts_balances_all_tokens_so_its_last_layer_stays_whole(tmp_path):
    with pytest.raises(InputError, match="last_layer_at_answer: a Qwen3MoeDecoderLayer"):
        judge_trainer(make_model("qwen3_moe", False, False), examples(3), tmp_path, last_layer_at_answer=True)


def test_a_mixture_of_experts_pays_for_balance_as_in_sfttrainer(tmp_path):
    model, rows = make_model("qwen3_moe", False, False), examples(3)
    losses = {}
    for coefficient in (0.0, 0.1):
        config = JudgeConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, router_aux_loss_coef=coefficient)
        trainer = VerdictTrainer(
            model=copy.deepcopy(model),
            args=config,
            processing_class=tokenizer_of("qwen2.5"),
            train_dataset=Dataset.from_list(rows),
            verdict_ids=VERDICTS,
        )
        batch = trainer.data_collator(rows)
        losses[coefficient] = trainer.compute_loss(trainer.model, batch).item()
    with torch.no_grad():
        tokens = {name: batch[name] for name in ("input_ids", "attention_mask")}
        balance = model(**tokens, output_router_logits=True).aux_loss.item()
    assert losses[0.1] - losses[0.0] == pytest.approx(0.1 * balance, abs=1e-5)
