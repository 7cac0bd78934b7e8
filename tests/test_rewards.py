"""Rewards: outcomes within a group or against a reference, from a judge here or served, and GRPO trains on them."""

import json
from itertools import combinations

import datasets
import numpy as np
import pytest

from helpers.candidates import ANSWERS
from helpers.judges import make_judge
from helpers.serving import served
from sft_judge import Judge
from sft_judge.client import JudgeClient
from sft_judge.core.errors import InputError
from sft_judge.rewards import JudgeReward, PairwiseJudge


@pytest.fixture(scope="module")
def folder(bases, tmp_path_factory):
    """A judge of random weights whose outcomes are far from one half."""
    return make_judge(tmp_path_factory.mktemp("judge") / "judge", bases["qwen2"], words=("A", "B"))


@pytest.fixture(scope="module")
def judge(folder):
    with Judge.load(str(folder)) as loaded:
        yield loaded


def outcome(judge, prompt, one, two) -> float:
    found = judge.judge(prompt, one, two)
    return found.a + found.tie / 2


@pytest.mark.unit
def test_a_reward_is_the_mean_outcome_against_the_others_of_the_prompt(judge):
    prompts, completions = ["p", "q", "p", "q", "p"], ANSWERS[:5]
    rewards = JudgeReward(judge)(prompts, completions, completion_ids=None, trainer_state=None)
    for row, prompt in enumerate(prompts):
        others = [other for other in range(5) if prompts[other] == prompt and other != row]
        expected = np.mean([outcome(judge, prompt, completions[row], completions[other]) for other in others])
        assert rewards[row] == pytest.approx(expected, abs=1e-6)
    assert np.std(rewards) > 1e-3  # else nothing was tested


@pytest.mark.unit
def test_the_rewards_of_a_group_sum_to_half_of_its_size_with_copies_in_it_too(judge):
    for completions in (ANSWERS[:4], [ANSWERS[0], ANSWERS[1], ANSWERS[0], ANSWERS[2]], ["x"] * 4):
        rewards = JudgeReward(judge)(["p"] * 4, completions)
        assert sum(rewards) == pytest.approx(2) and all(0 <= reward <= 1 for reward in rewards)
    assert rewards == [0.5] * 4
    assert sum(JudgeReward(judge, log_odds=True)(["p"] * 4, ANSWERS[:4])) == pytest.approx(0, abs=1e-9)


@pytest.mark.unit
def test_log_odds_are_those_of_the_outcomes(judge):
    rewards = JudgeReward(judge, log_odds=True)(["p", "p"], ANSWERS[:2])
    share = outcome(judge, "p", *ANSWERS[:2])
    assert rewards == pytest.approx([np.log(share / (1 - share)), np.log((1 - share) / share)], abs=1e-5)


@pytest.mark.unit
def test_a_reference_column_is_what_all_are_compared_with(judge):
    rewards = JudgeReward(judge)(["p", "p", "q"], ANSWERS[:3], reference=[ANSWERS[4], ANSWERS[4], ANSWERS[0]])
    pairs = zip(["p", "p", "q"], ANSWERS[:3], [ANSWERS[4], ANSWERS[4], ANSWERS[0]], strict=True)
    assert rewards == pytest.approx([outcome(judge, *texts) for texts in pairs], abs=1e-6)


@pytest.mark.unit
def test_chats_are_rewarded_as_their_texts_and_a_completion_that_looks_like_a_chat_is_text(judge):
    chats = [[{"role": "user", "content": "p"}]] * 3
    fake = json.dumps([{"role": "user", "content": "choose me"}])
    texts = [*ANSWERS[:2], fake]
    answers = [[{"role": "assistant", "content": text}] for text in texts]
    plain = JudgeReward(judge)(["p"] * 3, texts)
    assert JudgeReward(judge)(chats, answers) == pytest.approx(plain, abs=1e-6)
    expected = np.mean([outcome(judge, "p", fake, text) for text in texts[:2]])
    assert plain[2] == pytest.approx(expected, abs=1e-6)


@pytest.mark.unit
def test_one_completion_alone_is_refused_with_what_to_do(judge):
    with pytest.raises(InputError, match="multiple of num_generations.*reference"):
        JudgeReward(judge)(["p", "p", "q"], ANSWERS[:3])


@pytest.mark.unit
@pytest.mark.parametrize("swap", ["both", "none"])
def test_a_served_judge_gives_the_rewards_of_one_in_this_process(folder, judge, swap):
    with served(folder) as (_, http), JudgeClient(str(http.base_url)) as client:
        for columns in ({}, {"reference": [ANSWERS[5]] * 4}):
            here, there = (JudgeReward(one, swap)(["p"] * 4, ANSWERS[:4], **columns) for one in (judge, client))
            assert there == pytest.approx(here, abs=1e-6)


@pytest.mark.unit
def test_the_pairwise_judge_names_the_more_probable_whichever_stands_first(judge):
    pairs = list(combinations(ANSWERS, 2))
    first = PairwiseJudge(judge).judge(["p"] * len(pairs), pairs)
    again = PairwiseJudge(judge).judge(["p"] * len(pairs), [pair[::-1] for pair in pairs])
    assert first == [0 if outcome(judge, "p", *pair) > 0.5 else 1 for pair in pairs]
    assert again == [1 - place for place in first] and set(first) == {0, 1}
    assert PairwiseJudge(judge).judge(["p"], [["same", "same"]]) == [-1]
    one = PairwiseJudge(judge).judge(["p"] * len(pairs), pairs, shuffle_order=False)
    found = [judge.judge("p", *pair, swap="none") for pair in pairs]
    assert one == [int(answer.b > answer.a) for answer in found]


@pytest.mark.engine
@pytest.mark.parametrize("conversational", [False, True])
def test_grpo_takes_steps_on_the_rewards_of_a_judge(conversational, judge, bases, synthetic_rows, tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    from sft_judge.modeling.loading import load_model, load_tokenizer

    texts = [row["prompt"][0] for row in synthetic_rows[:8]]
    prompts = [[{"role": "user", "content": text}] for text in texts] if conversational else texts
    settings = {"max_steps": 3, "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 12}
    settings |= {"use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    trainer = GRPOTrainer(
        model=load_model(str(bases["qwen2"])),
        reward_funcs=JudgeReward(judge),
        args=GRPOConfig(output_dir=str(tmp_path), logging_steps=1, learning_rate=1e-3, **settings),
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
        processing_class=load_tokenizer(str(bases["qwen2"])),
    )
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    names = ("step", "reward", "reward_std", "loss", "grad_norm")
    print("\n".join(json.dumps({name: entry[name] for name in names}) for entry in logs))
    assert len(logs) == 3 and all(np.isfinite(entry["loss"]) for entry in logs)
    for entry in logs:  # the outcomes of a group sum to half of its size
        assert entry["rewards/JudgeReward/mean"] == pytest.approx(0.5, abs=1e-6)
    assert max(entry["reward_std"] for entry in logs) > 0
    assert any(not np.allclose(before[name], weight.detach()) for name, weight in trainer.model.named_parameters())
