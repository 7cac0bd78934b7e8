"""The verdict head against the whole head: the same logits and gradients, without the vocabulary."""

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

from sft_judge.modeling.loading import load_model
from sft_judge.modeling.verdict_head import VerdictHead, dense_gradients

pytestmark = pytest.mark.unit
LENGTHS = [9, 14, 5, 12]


@pytest.fixture(params=["full", "lora"])
def make_model(request, base):
    """A function that loads the same model again: the family's weights made larger, so that soft-caps bite."""

    def make():
        torch.manual_seed(5)
        model = load_model(str(base), "float32")
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(8.0 if weight.ndim > 1 else 1.0)
        if request.param == "lora":
            config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.0)
            model = get_peft_model(model, config)
        return model.train()

    return make


def batch(model, num_verdicts: int):
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(10, 900, (len(LENGTHS), max(LENGTHS)), generator=generator)
    lengths = torch.tensor(LENGTHS)
    mask = (torch.arange(max(LENGTHS)) < lengths[:, None]).long()
    ids = ids * mask  # id 0 is padding
    targets = torch.softmax(torch.randn(len(LENGTHS), num_verdicts, generator=generator), dim=1)
    return ids, mask, lengths - 1, targets, [700, 33, 421][:num_verdicts]


def logits_of(head, model, ids, mask, positions, **more):
    return head(model, {"input_ids": ids, "attention_mask": mask}, positions, **more).logits


def gradients(model) -> dict:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("num_verdicts", [2, 3])
def test_logits_and_gradients_are_those_of_the_whole_head(num_verdicts, make_model):
    naive = make_model()
    ids, mask, positions, targets, verdicts = batch(naive, num_verdicts)
    whole = naive(input_ids=ids, attention_mask=mask, use_cache=False).logits
    expected = whole[torch.arange(len(ids)), positions][:, verdicts]
    F.cross_entropy(expected, targets).backward()

    model = make_model()
    seen = logits_of(VerdictHead(model, verdicts), model, ids, mask, positions)
    F.cross_entropy(seen, targets).backward()
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)
    wanted, got = gradients(naive), gradients(model)
    assert wanted.keys() == got.keys() and len(got) > 10
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: name + text)


def test_gemmas_final_soft_cap_is_applied(bases):
    model = load_model(str(bases["gemma2"]), "float32")
    cap = model.config.final_logit_softcapping
    assert cap and model.config.attn_logit_softcapping
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3000.0)
        ids, mask, positions, _, verdicts = batch(model, 3)
        logits = logits_of(VerdictHead(model, verdicts), model, ids, mask, positions)
    assert logits.abs().max() <= cap and logits.abs().max() > cap / 2


def test_only_the_verdicts_rows_of_an_untied_head_are_moved(bases):
    model = load_model(str(bases["qwen2"]), "float32", tie_word_embeddings=False)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    ids, mask, positions, targets, verdicts = batch(model, 3)
    F.cross_entropy(logits_of(VerdictHead(model, verdicts), model, ids, mask, positions), targets).backward()
    gradient = model.get_output_embeddings().weight.grad
    moved = gradient.abs().sum(dim=1).nonzero().flatten().tolist()
    assert moved == sorted(verdicts)


def test_a_heads_bias_is_added(bases):
    model = load_model(str(bases["qwen2"]), "float32")
    old = model.get_output_embeddings()
    head = torch.nn.Linear(*reversed(old.weight.shape), bias=True)
    torch.nn.init.normal_(head.bias)
    head.weight = old.weight
    model.set_output_embeddings(head)
    ids, mask, positions, _, verdicts = batch(model, 3)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits[torch.arange(len(ids)), positions][:, verdicts]
        torch.testing.assert_close(logits_of(VerdictHead(model, verdicts), model, ids, mask, positions), expected)


def test_in_float32_the_verdicts_logits_of_a_model_in_bfloat16_are_not_rounded(bases):
    """A logit of 16 to 32 would be rounded to eighths."""
    model = load_model(str(bases["qwen2"]), "bfloat16")
    ids, mask, positions, _, verdicts = batch(model, 3)
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        answers = hidden[torch.arange(len(ids)), positions].float()
        expected = answers @ model.get_output_embeddings().weight[verdicts].float().T
        logits = logits_of(VerdictHead(model, verdicts, in_float32=True), model, ids, mask, positions)
    assert logits.dtype == torch.float32 and (expected - expected.bfloat16().float()).abs().max() > 1e-4
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-6)


def test_no_logits_over_the_vocabulary_are_built(make_model):
    """Of all tensors that autograd keeps or the head returns, none but weights is as wide as the vocabulary."""
    model = make_model()
    ids, mask, positions, targets, verdicts = batch(model, 3)
    vocabulary = len(model.get_output_embeddings().weight)
    head, shapes, kept = VerdictHead(model, verdicts), [], []
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        F.cross_entropy(logits_of(head, model, ids, mask, positions), targets).backward()
    assert shapes == [(len(ids), 1, 3)]
    assert kept and not [shape for shape in kept if shape[-1:] == (vocabulary,)]


def test_a_row_does_not_depend_on_the_padding_or_on_the_other_rows(make_model):
    model = make_model().eval()
    ids, mask, positions, _, verdicts = batch(model, 3)
    head = VerdictHead(model, verdicts)
    with torch.no_grad():
        together = logits_of(head, model, ids, mask, positions)
        wider = logits_of(head, model, F.pad(ids, (0, 7)), F.pad(mask, (0, 7)), positions)
        alone = [
            logits_of(head, model, ids[row : row + 1, :n], mask[row : row + 1, :n], positions[row : row + 1])
            for row, n in enumerate(LENGTHS)
        ]
        left = [torch.arange(ids.shape[1]) - (ids.shape[1] - n) for n in LENGTHS]  # the same rows, padded on the left
        place = torch.stack(left).clamp(min=0)
        moved = {"input_ids": ids.gather(1, place), "attention_mask": (torch.stack(left) >= 0).long()}
        last = torch.full((len(ids),), ids.shape[1] - 1)
        padded_left = head(model, {**moved, "position_ids": place}, last).logits
        rows = [ids[row, :n] for row, n in enumerate(LENGTHS)]
        flat = {
            "input_ids": torch.cat(rows)[None],
            "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None],
        }
        padding_free = head(model, flat, torch.tensor(LENGTHS).cumsum(0) - 1).logits
    torch.testing.assert_close(together, padded_left, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, padding_free, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, wider, atol=1e-5, rtol=1e-5)


def test_the_model_still_generates_and_gives_whole_logits_afterwards(make_model):
    ids, mask, positions, _, verdicts = batch(None, 3)
    untouched, model = make_model().eval(), make_model().eval()
    with torch.no_grad():
        logits_of(VerdictHead(model, verdicts), model, ids, mask, positions)
        expected = untouched(input_ids=ids, attention_mask=mask).logits
        assert expected.shape[-1] > 1000
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected)
        words = {"input_ids": ids[1:2], "attention_mask": mask[1:2], "max_new_tokens": 4, "do_sample": False}
        assert model.generate(**words).equal(untouched.generate(**words))


@pytest.mark.parametrize("tied", [True, False])
def test_a_scattered_gradient_is_the_indexed_one_over_accumulated_batches(tied, bases):
    found = []
    for scatter in (False, True):
        torch.manual_seed(5)  # an untied head is drawn
        model = load_model(str(bases["qwen2"]), "float32", tie_word_embeddings=tied)
        ids, mask, positions, targets, verdicts = batch(model, 3)
        head = VerdictHead(model, verdicts, scatter=scatter)
        for part in (slice(0, 2), slice(2, 4)):
            logits = logits_of(head, model, ids[part], mask[part], positions[part])
            F.cross_entropy(logits, targets[part]).backward()
            assert model.get_output_embeddings().weight.grad.is_sparse == (scatter and not tied)
        dense_gradients(model)
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert not found[1][name].is_sparse
        torch.testing.assert_close(found[1][name], gradient)


def test_the_whole_head_at_the_answer_is_the_whole_heads_row(make_model):
    model = make_model().eval()
    ids, mask, positions, _, verdicts = batch(model, 3)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits[torch.arange(len(ids)), positions]
        head = VerdictHead(model, verdicts)
        whole = logits_of(head, model, ids, mask, positions, whole=True)
        torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits_of(head, model, ids, mask, positions), whole[:, verdicts], atol=1e-5, rtol=0)


def test_an_adapter_on_the_head_is_read_and_trained(bases):
    def make():
        torch.manual_seed(5)
        base = load_model(str(bases["qwen2"]), "float32", tie_word_embeddings=False)
        config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
        return get_peft_model(base, config)

    naive, model = make(), make()
    ids, mask, positions, targets, verdicts = batch(naive, 3)
    expected = naive(input_ids=ids, attention_mask=mask).logits[torch.arange(len(ids)), positions][:, verdicts]
    seen = logits_of(VerdictHead(model, verdicts), model, ids, mask, positions)
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)
    for logits in (seen, expected):
        F.cross_entropy(logits, targets).backward()
    wanted, got = gradients(naive), gradients(model)
    assert wanted.keys() == got.keys() and any("lm_head" in name for name in got)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=1e-4)


def test_an_error_in_the_forward_leaves_the_model_whole(bases):
    model = load_model(str(bases["qwen2"]), "float32")
    ids, mask, positions, _, verdicts = batch(model, 3)
    expected = model(input_ids=ids, attention_mask=mask).logits
    head = VerdictHead(model, verdicts, last_layer=True)
    with pytest.raises(IndexError):
        logits_of(head, model, ids, mask, positions + 1000)
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, expected)
