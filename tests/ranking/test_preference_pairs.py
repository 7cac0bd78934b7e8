"""Preference pairs: nothing is lost in silence, rules hold, and TRL's trainers take the file."""

import json
import math
from itertools import combinations

import datasets
import numpy as np
import pytest
from trl.data_utils import is_conversational

from helpers.candidates import ANSWERS, rows_of, written
from helpers.judges import make_judge
from sft_judge import Judge
from sft_judge.cli import main
from sft_judge.inference.contests import Entry
from sft_judge.inference.judge import Judgement
from sft_judge.ranking.preference_pairs import DISAGREE, LENGTH, MARGIN, PER_PROMPT, TIE, Rules, figures, judged_pairs

LOOSE = ("--min-margin", "0", "--max-per-prompt", "99", "--keep-disagreements")


def preference_pairs(candidates, model, output, *options) -> int:
    return main(["preference-pairs", str(candidates), "--model", str(model), "--output", str(output), *options])


@pytest.fixture(scope="module")
def judge(bases, tmp_path_factory):
    """A judge of random weights that knows no tie, as the one of three verdicts says nothing else."""
    return make_judge(tmp_path_factory.mktemp("judge") / "judge", bases["qwen2"], words=("A", "B"))


@pytest.fixture(scope="module")
def samples(synthetic_rows, tmp_path_factory):
    """Ten synthetic prompts with five answers each, of several lengths."""
    texts = [row["response_a"][0] for row in synthetic_rows]
    rows = [
        {
            "id": f"p{place}",
            "prompt": synthetic_rows[place]["prompt"][0],
            "candidates": texts[5 * place : 5 * place + 5],
        }
        for place in range(10)
    ]
    return written(tmp_path_factory.mktemp("samples") / "samples.jsonl", rows)


@pytest.fixture
def groups():
    """Judged pairs of 40 prompts as a judge might have them: probabilities, verdicts and agreement drawn."""
    from sft_judge.data.candidates import make_group

    rng, found = np.random.default_rng(0), []
    for place in range(40):
        texts = [f"{place} {number} " + "x" * int(rng.integers(1, 30)) for number in range(4)]
        entry = Entry.of(make_group("p", texts), "round-robin")
        for pair in combinations(range(4), 2):
            a, b, tie = rng.dirichlet([1, 1, 0.5])
            verdict = ("a", "b", "tie")[int(np.argmax([a, b, tie]))]
            entry.contest.judged[pair] = Judgement(a, b, tie, verdict, bool(rng.random() < 0.8))
        found.append(judged_pairs(entry))
    return found


@pytest.mark.unit
def test_all_pairs_of_a_loose_run_are_the_judges_own_and_chosen_is_the_more_probable(judge, tmp_path):
    written(tmp_path / "in.jsonl", [{"prompt": "why rain", "candidates": ANSWERS[:4]}])
    assert preference_pairs(tmp_path / "in.jsonl", judge, tmp_path / "out.jsonl", *LOOSE) == 0
    rows = rows_of(tmp_path / "out.jsonl")
    with Judge.load(str(judge)) as loaded:
        said = {(one, two): loaded.judge("why rain", one, two) for one, two in combinations(ANSWERS[:4], 2)}
    assert {frozenset((row["chosen"], row["rejected"])) for row in rows} == {frozenset(pair) for pair in said}
    for row in rows:
        pair = (row["chosen"], row["rejected"])
        found = said.get(pair)
        expected = (found.a, found.b) if found else (said[pair[::-1]].b, said[pair[::-1]].a)
        assert (row["p_chosen"], row["p_rejected"]) == pytest.approx(expected, abs=1e-6)
        assert row["p_chosen"] > row["p_rejected"] and row["prompt"] == "why rain"
    margins = [row["p_chosen"] - row["p_rejected"] for row in rows]
    assert margins == sorted(margins, reverse=True)


@pytest.mark.unit
@pytest.mark.parametrize("balanced", [False, True])
def test_every_pair_is_kept_or_counted_under_the_first_rule_that_drops_it(groups, balanced):
    kept, dropped = Rules(0.3, 2, True, balanced).keep(groups)
    everything = [pair for pairs in groups for pair in pairs]
    assert len(kept) + sum(dropped.values()) == len(everything)
    ties = [pair for pair in everything if pair.tied]
    disagree = [pair for pair in everything if not pair.tied and not pair.agree]
    small = [pair for pair in everything if not pair.tied and pair.agree and pair.margin < 0.3]
    assert [dropped[name] for name in (TIE, DISAGREE, MARGIN)] == [
        len(ties),
        len(disagree),
        len(small),
    ]
    assert min(len(ties), len(disagree), len(small), dropped[PER_PROMPT]) > 0  # else nothing was tested
    for pairs in groups:
        good = sorted((p.margin for p in pairs if not p.tied and p.agree and p.margin >= 0.3), reverse=True)
        mine = [pair.margin for pair in kept if pair.entry is pairs[0].entry]
        assert balanced or mine == good[:2]


@pytest.mark.unit
def test_balanced_pairs_have_the_longer_one_chosen_as_often_as_the_shorter_and_lose_the_least_clear(groups):
    before, _ = Rules(0.0, 99, False, False).keep(groups)
    after, dropped = Rules(0.0, 99, False, True).keep(groups)
    assert sum(pair.longer for pair in after) == 0 != sum(pair.longer for pair in before)
    gone = [pair for pair in before if all(pair is not other for other in after)]
    side = gone[0].longer
    assert len(gone) == dropped[LENGTH] == abs(sum(pair.longer for pair in before))
    assert {pair.longer for pair in gone} == {side}
    assert max(pair.margin for pair in gone) <= min(pair.margin for pair in after if pair.longer == side)


@pytest.mark.unit
def test_the_share_of_longer_ones_leaves_out_pairs_of_equal_length(groups):
    kept, _ = Rules(0.0, 99, False, False).keep(groups)
    lengths = [
        tuple(len(pair.entry.group.responses[place][0]) for place in (pair.chosen, pair.rejected)) for pair in kept
    ]
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    assert figures(kept)["chosen_longer"] == pytest.approx(np.mean(unequal)) and len(unequal) < len(kept)
    assert figures([pair for pair in kept if pair.longer == 0])["chosen_longer"] is None


@pytest.mark.unit
def test_the_card_and_the_manifest_say_what_the_file_holds(judge, samples, tmp_path, capsys):
    words = ("--min-margin", "0", "--max-per-prompt", "3", "--balance-length", "--keep-disagreements")
    assert preference_pairs(samples, judge, tmp_path / "out.jsonl", *words) == 0
    rows, card = rows_of(tmp_path / "out.jsonl"), (tmp_path / "out.jsonl.card.md").read_text()
    facts = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert facts["rows"] == len(rows) and facts["judged"] == 100 == len(rows) + sum(facts["dropped"].values())
    assert facts["calls"] == 200 and f"| pairs in the file | {len(rows)} |" in card
    assert facts["mean_margin"] == pytest.approx(np.mean([row["p_chosen"] - row["p_rejected"] for row in rows]))
    unequal = [row for row in rows if len(row["chosen"]) != len(row["rejected"])]
    longer = [row for row in unequal if len(row["chosen"]) > len(row["rejected"])]
    assert facts["chosen_longer"] == 0.5 == len(longer) / len(unequal)
    for what, count in facts["dropped"].items():
        assert f"| dropped: {what} | {count} |" in card
    assert str(judge) in card and "not calibrated" in card and "lengths balanced" in card
    assert f"100 pairs judged = {len(rows)} kept" in capsys.readouterr().out


@pytest.mark.unit
def test_no_pair_left_is_an_error_that_keeps_the_judgements_for_other_rules(judge, samples, tmp_path, capsys):
    assert preference_pairs(samples, judge, tmp_path / "out.jsonl", "--min-margin", "1") == 2
    assert "No pair is left" in capsys.readouterr().err and not (tmp_path / "out.jsonl").exists()
    assert preference_pairs(samples, judge, tmp_path / "out.jsonl", *LOOSE) == 0
    assert "0 calls made, 200 more kept" in capsys.readouterr().out


@pytest.mark.unit
def test_several_turns_need_the_conversational_form(judge, tmp_path, capsys):
    system, user = {"role": "system", "content": "be brief"}, {"role": "user", "content": "Q?"}
    written(tmp_path / "in.jsonl", [{"id": "chat", "prompt": [system, user], "candidates": ANSWERS[:3]}])
    assert preference_pairs(tmp_path / "in.jsonl", judge, tmp_path / "out.jsonl", *LOOSE) == 2
    assert "chat: 2 messages" in capsys.readouterr().err
    assert preference_pairs(tmp_path / "in.jsonl", judge, tmp_path / "out.jsonl", *LOOSE, "--conversational") == 0
    for row in rows_of(tmp_path / "out.jsonl"):
        assert row["prompt"] == [system, user] and is_conversational(row)
        assert [message["role"] for message in row["chosen"]] == ["assistant"]
        assert row["chosen"][0]["content"] in ANSWERS[:3]


@pytest.mark.engine
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("conversational", [False, True])
def test_dpo_and_reward_trainers_of_trl_take_a_step_on_the_file(
    suffix, conversational, judge, bases, samples, tmp_path
):
    from transformers import AutoModelForSequenceClassification
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    from sft_judge.modeling.loading import load_model, load_tokenizer

    output = tmp_path / f"pairs.{suffix}"
    assert preference_pairs(samples, judge, output, *LOOSE, *(["--conversational"] * conversational)) == 0
    loader = "json" if suffix == "jsonl" else "parquet"
    rows = datasets.load_dataset(loader, data_files=str(output), split="train", cache_dir=str(tmp_path / "cache"))
    assert {"prompt", "chosen", "rejected"} <= set(rows.column_names) and is_conversational(rows[0]) == conversational
    base, tokenizer = str(bases["qwen2"]), load_tokenizer(str(bases["qwen2"]))
    settings = {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True, "report_to": [], "bf16": False}
    settings |= {"output_dir": str(tmp_path / "trained"), "save_strategy": "no", "disable_tqdm": True}
    classifier = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    classifier.config.pad_token_id = tokenizer.pad_token_id
    for trainer in (
        DPOTrainer(model=load_model(base), args=DPOConfig(**settings), train_dataset=rows, processing_class=tokenizer),
        RewardTrainer(model=classifier, args=RewardConfig(**settings), train_dataset=rows, processing_class=tokenizer),
    ):
        assert math.isfinite(trainer.train().training_loss)
