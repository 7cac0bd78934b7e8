"""Reward routes: groups are held until they are whole, and rewards are those of `JudgeReward` on the same rollouts."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.candidates import ANSWERS
from helpers.judges import make_judge
from helpers.serving import KEY, SECRET, eventually, refused, served
from sft_judge import Judge
from sft_judge.client import ServerError
from sft_judge.core.errors import InputError
from sft_judge.inference.serving.limits import RewardSettings
from sft_judge.inference.serving.reward_routes import after_prompt, without_end
from sft_judge.rewards import JudgeReward, compute_score

pytestmark = pytest.mark.unit
SIZE = 4
TEMPLATED = "<|im_start|>user\nName a prime.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folder(bases, tmp_path_factory):
    """A judge of random weights whose outcomes are far from one half."""
    return make_judge(tmp_path_factory.mktemp("judge") / "judge", bases["qwen2"])


@pytest.fixture(scope="module")
def expected(folder):
    """The rewards of answers to a prompt, by TRL's reward function in this process."""
    with Judge.load(str(folder)) as judge:
        reward = JudgeReward(judge)
        yield lambda prompt, answers, **columns: reward([prompt] * len(answers), answers, **columns)


def serving(folder, engine=None, size=SIZE, seconds=30, method="round-robin", **limits):
    rewards = RewardSettings(size, seconds, method)
    return served(folder, engine, app_options={"rewards": rewards}, **limits)


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as (service, client):
        yield service, client


def in_openrlhf(prompt, answers, labels=None) -> dict:
    query = [f"{prompt}{answer}<|im_end|>\n" for answer in answers]
    return {"query": query, "prompts": [prompt] * len(answers), "labels": labels or [None] * len(answers)}


def at_once(client, bodies: list[dict]) -> list:
    """Send each body from a thread of its own, and return the responses in the order of the bodies."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: client.post("/reward", json=body), bodies))


def test_a_whole_group_in_one_request_gets_the_rewards_of_judgereward(server, expected):
    answers = ANSWERS[:SIZE]
    told = server[1].post("/reward", json=in_openrlhf(TEMPLATED, answers)).json()
    wanted = expected(TEMPLATED, answers)
    assert np.std(wanted) > 1e-4
    assert told["rewards"] == told["scores"] == pytest.approx(wanted, abs=1e-6)
    assert told["extra_logs"] == {"group_size": [SIZE] * SIZE, "group_whole": [1.0] * SIZE}


def test_rollouts_that_come_one_by_one_are_held_until_the_group_is_whole(server, expected):
    answers = ANSWERS[:SIZE]
    waiting = ThreadPoolExecutor(SIZE)
    body = {"prompt": "p", "label": None}
    futures = [waiting.submit(server[1].post, "/reward", json={**body, "response": text}) for text in answers[:-1]]
    eventually(lambda: server[0].queue.taken == SIZE - 1)
    time.sleep(0.3)
    assert not any(future.done() for future in futures)
    last = server[1].post("/reward", json={**body, "response": answers[-1]})
    found = [future.result().json() for future in futures] + [last.json()]
    assert found == pytest.approx(expected("p", answers), abs=1e-6)


@pytest.mark.parametrize("form", ["slime", "openrlhf"])
def test_64_clients_with_16_prompts_get_the_rewards_of_their_own_group(server, expected, form):
    prompts = [f"prompt {number}" for number in range(16)]
    pairs = [(prompt, f"{answer} {prompt}") for answer in ANSWERS[:SIZE] for prompt in prompts]
    if form == "slime":
        bodies = [{"prompt": [{"role": "user", "content": prompt}], "response": text} for prompt, text in pairs]
    else:
        bodies = [in_openrlhf(prompt, [text]) for prompt, text in pairs]
    found = [response.json() for response in at_once(server[1], bodies)]
    found = found if form == "slime" else [one["rewards"][0] for one in found]
    for prompt in prompts:
        texts = [text for other, text in pairs if other == prompt]
        seen = [reward for reward, (other, _) in zip(found, pairs, strict=True) if other == prompt]
        assert seen == pytest.approx(expected(prompt, texts), abs=1e-6)


def test_two_groups_of_one_prompt_are_two_groups(server):
    found = at_once(server[1], [{"prompt": "twice", "response": text} for text in ANSWERS[:SIZE] * 2])
    assert sum(response.json() for response in found) == pytest.approx(SIZE)  # half of each group's size


def test_a_planted_order_is_recovered(server, monkeypatch):
    """An engine that prefers the response with more tokens: rewards follow the lengths."""
    service = server[0]

    def longer(rows):
        shares = [len(row["response_a"][0]) / (len(row["response_a"][0]) + len(row["response_b"][0])) for row in rows]
        return np.log([[share * 0.9, (1 - share) * 0.9, 0.1] for share in shares])

    fit, seen = service.prompt.fit, []
    monkeypatch.setattr(service.prompt, "fit", lambda rows: (seen.extend(rows), fit(rows))[1])

    async def score(prompts, fresh=False):
        rows = [seen.pop(0) for _ in range(len(prompts) // 2)]
        logp = longer(rows).repeat(2, axis=0)
        logp[1::2] = logp[1::2][:, [1, 0, 2]]
        return logp, np.zeros(len(prompts), int)

    monkeypatch.setattr(service.engine, "score", score)
    answers = ["a" * 10, "b" * 40, "c" * 20, "d" * 30]
    rewards = server[1].post("/reward", json=in_openrlhf("planted", answers)).json()["rewards"]
    assert np.argsort(rewards).tolist() == [0, 2, 3, 1]


def test_a_group_that_stays_incomplete_is_judged_after_its_time_and_says_so(folder, server, expected, caplog):
    with serving(folder, server[0].engine, seconds=1) as (_, client):
        told = client.post("/reward", json=in_openrlhf("late", ANSWERS[:3])).json()
        assert told["rewards"] == pytest.approx(expected("late", ANSWERS[:3]), abs=1e-6)
        assert told["extra_logs"] == {"group_size": [3.0] * 3, "group_whole": [0.0] * 3}
        assert "a group has 3 of 4 rollouts" in caplog.text
        alone = client.post("/reward", json={"prompt": "alone", "response": "x"})
        assert "nothing to compare" in refused(alone, 409)


def test_a_rollout_whose_client_is_gone_leaves_its_group(server, expected):
    gone = threading.Thread(target=lambda: _give_up(server[1]))
    gone.start()
    gone.join()
    eventually(lambda: server[0].queue.taken == 0)
    found = at_once(server[1], [{"prompt": "gone", "response": text} for text in ANSWERS[:SIZE]])
    assert sorted(one.json() for one in found) == pytest.approx(sorted(expected("gone", ANSWERS[:SIZE])), abs=1e-6)


def _give_up(client, response="never read", seconds=0.5) -> None:
    import httpx

    with pytest.raises(httpx.ReadTimeout):
        client.post("/reward", json={"prompt": "gone", "response": response}, timeout=seconds)


def test_a_rollout_whose_client_is_gone_is_not_counted_while_others_wait(server, expected):
    service, client = server
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/reward", json={"prompt": "gone", "response": ANSWERS[0]})
        eventually(lambda: service.queue.taken == 1)
        _give_up(client)
        eventually(lambda: service.queue.taken == 1)
        found = at_once(client, [{"prompt": "gone", "response": text} for text in ANSWERS[1:SIZE]])
        rewards = [first.result().json(), *(one.json() for one in found)]
    assert rewards == pytest.approx(expected("gone", ANSWERS[:SIZE]), abs=1e-6)


def test_a_server_that_stops_judges_what_it_holds(folder, server, expected):
    with serving(folder, server[0].engine) as (service, client), ThreadPoolExecutor(2) as pool:
        bodies = [{"prompt": "stopping", "response": text} for text in ANSWERS[:2]]
        futures = [pool.submit(client.post, "/reward", json=body) for body in bodies]
        eventually(lambda: service.queue.taken == 2)
        start = time.monotonic()
        service.stopping.set()
        found = [future.result().json() for future in futures]
    assert time.monotonic() - start < 20
    assert found == pytest.approx(expected("stopping", ANSWERS[:2]), abs=1e-6)


def test_a_rollout_that_is_alone_when_the_server_stops_is_told_to_come_again(folder, server):
    with serving(folder, server[0].engine) as (service, client), ThreadPoolExecutor(1) as pool:
        future = pool.submit(client.post, "/reward", json={"prompt": "alone", "response": "x"})
        eventually(lambda: service.queue.taken == 1)
        service.stopping.set()
        assert future.result().status_code == 503


def test_a_group_whose_clients_are_all_gone_is_not_judged_further(server):
    service, client = server
    service.engine.busy, cancelled = True, service.engine.cancelled
    asked = len(service.engine.asked)
    gone = [threading.Thread(target=_give_up, args=(client, f"{number}", 3)) for number in range(SIZE)]
    for thread in gone:
        thread.start()
    eventually(lambda: len(service.engine.asked) > asked)
    for thread in gone:
        thread.join()
    eventually(lambda: service.engine.cancelled == cancelled + 1 and service.queue.taken == 0)
    service.engine.busy = False


def test_a_group_that_all_have_left_begins_anew(folder, server):
    """The next rollout waits its whole time, not the rest of the time of those that left."""
    with serving(folder, server[0].engine, seconds=3) as (service, client):
        _give_up(client, "never read", 1)
        eventually(lambda: service.queue.taken == 0)
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(client.post, "/reward", json={"prompt": "gone", "response": "one"})
            time.sleep(2.3)  # with the second below after the end of the first one's time
            two = pool.submit(client.post, "/reward", json={"prompt": "gone", "response": "two"})
            assert one.result().status_code == two.result().status_code == 200


def test_a_rollout_that_stays_alone_in_a_batch_is_half_and_said_and_the_others_keep_theirs(folder, server, expected):
    with serving(folder, server[0].engine, seconds=1) as (_, client):
        whole, lone = in_openrlhf("whole", ANSWERS[:SIZE]), in_openrlhf("lone", ANSWERS[:1])
        told = client.post("/reward", json={name: whole[name] + lone[name] for name in whole}).json()
    assert told["rewards"] == pytest.approx([*expected("whole", ANSWERS[:SIZE]), 0.5], abs=1e-6)
    assert told["extra_logs"] == {"group_size": [SIZE] * SIZE + [1], "group_whole": [1.0] * SIZE + [0.0]}


def test_each_rollout_and_each_battle_of_a_comparison_takes_a_place_in_the_queue(folder, server):
    with serving(folder, server[0].engine, size=2, battles=2, queue=10) as (service, client):
        many = in_openrlhf("many", list(map(str, range(11))))
        refused(client.post("/reward", json=many), 429)
        assert client.post("/compare", json=compared(map(str, range(5)))).status_code == 200  # 10 battles
        service.queue.taken = 1
        refused(client.post("/compare", json=compared(map(str, range(5)))), 429)
        service.queue.taken = 0
        assert "expected 2 to 5" in refused(
            client.post("/compare", json=compared(map(str, range(6)))), 400, "response_objs"
        )


def test_a_message_repeats_no_text_of_a_rollout(server):
    label = {"reference": [{"role": "assistant", "content": [{"type": "x", "t": SECRET}]}]}
    for body in ({"prompt": "p", "response": "x", "label": label}, {"prompt": [{"role": SECRET}], "response": "x"}):
        response = server[1].post("/reward", json=body)
        assert response.status_code == 400 and SECRET not in response.text


def test_a_long_run_of_control_tokens_or_white_space_is_removed_in_one_pass():
    assert without_end("x" + "<pad>" * 100_000) == "x"
    assert without_end("x " + "<|im_end|>\n" * 1000) == "x "
    assert without_end(" " * 1_000_000 + "x") == " " * 1_000_000 + "x"
    for kept in ("x <b", "x\n", "a <pad> b", "<|a b", "", " "):
        assert without_end(kept) == kept


@pytest.mark.parametrize(
    "query, prompt, response",
    [
        ("px", "p", "x"),
        ("<s>px", "p", "x"),
        ("<|begin_of_text|><s> px", " p", "x"),
        ("<s>px", "<s>p", "x"),
        ("<s>s one", "s", " one"),
        ("q p x", "p", None),
        ("<s>", "p", None),
    ],
)
def test_the_response_is_what_follows_the_prompt(query, prompt, response):
    assert after_prompt(query, prompt) == response


@pytest.mark.parametrize("as_text", [False, True])
def test_a_label_may_hold_the_bare_prompt_and_a_reference_which_is_not_waited_for(server, expected, as_text):
    label = {"prompt": "p", "reference": ANSWERS[5]}
    label = json.dumps(label) if as_text else label
    found = server[1].post("/reward", json={"prompt": TEMPLATED, "response": ANSWERS[0], "label": label}).json()
    assert found == pytest.approx(expected("p", ANSWERS[:1], reference=[ANSWERS[5]])[0], abs=1e-6)
    told = server[1].post("/reward", json=in_openrlhf(TEMPLATED, ANSWERS[:1], [label])).json()
    assert told["rewards"] == pytest.approx([found], abs=1e-6)


@pytest.mark.parametrize("label", ["42", "{not json", '{"answer": 42}', 42, {"answer": 42}, ["x"]])
def test_any_other_label_is_not_read(server, label):
    told = server[1].post("/reward", json=in_openrlhf("p", ANSWERS[:SIZE], [label] * SIZE))
    assert sum(told.json()["rewards"]) == pytest.approx(SIZE / 2)


@pytest.mark.parametrize("method", ["anchor", "knockout"])
def test_other_methods_judge_fewer_battles(folder, server, method):
    asked = server[0].engine.asked
    with serving(folder, server[0].engine, method=method) as (_, client):
        asked.clear()
        rewards = client.post("/reward", json=in_openrlhf("fewer", ANSWERS[:SIZE])).json()["rewards"]
    assert len(asked) == 2 * (SIZE - 1)
    assert max(rewards) == 1.0 if method == "knockout" else rewards.count(0.5) == 1


def compared(texts, **more) -> dict:
    def response(text):
        content = [{"type": "output_text", "text": text, "annotations": []}]
        reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "not read"}]}
        return {"id": "r", "output": [reasoning, {"type": "message", "role": "assistant", "content": content}]}

    history = [{"role": "user", "content": "p"}]
    return {"conversation_history": history, "response_objs": list(map(response, texts)), **more}


def test_compare_judges_all_responses_at_once(server, expected):
    told = server[1].post("/compare", json=compared(ANSWERS[:6], principle=None)).json()
    assert told["rewards"] == pytest.approx(expected("p", ANSWERS[:6]), abs=1e-6)
    assert set(told) == {"rewards", "comparison_results", "metrics"}


@pytest.mark.parametrize(
    "path, body, param",
    [
        ("/reward", {"query": ["x"], "prompts": ["y"], "labels": [None]}, "query.0"),
        ("/reward", {"query": ["x"], "prompts": ["x", "x"], "labels": [None]}, "prompts"),
        ("/reward", {"query": "x", "prompts": ["x"]}, "query"),
        ("/reward", {"query": ["x"], "prompts": [""]}, "prompts.0"),
        ("/reward", {"prompt": 3, "response": "x"}, None),
        ("/reward", {"prompt": "x"}, "response"),
        ("/reward", {"prompt": [{"role": "tool", "content": "x"}], "response": "x"}, None),
        ("/reward", {"prompt": "x", "response": "y" * 300_000}, "response_a.0"),
        ("/reward", {"prompt": [{"role": "tool", "content": "x"}], "response": "x"}, "prompt.0.role"),
        ("/compare", compared(["x"]), "response_objs"),
        ("/compare", compared(["x", "y"], principle="be brief"), "principle"),
        ("/compare", {**compared([]), "response_objs": [{"text": "x"}] * 2}, "response_objs.0.output"),
        ("/compare", compared(map(str, range(17))), "response_objs"),
    ],
)
def test_what_is_wrong_in_a_rollout_is_named(server, path, body, param):
    response = server[1].post(path, json=body)
    assert response.status_code == 400, response.text
    if param:
        refused(response, 400, param)


def test_control_tokens_at_the_end_of_a_rollout_are_not_part_of_the_response(server, expected):
    for end in (
        "",
        "<|im_end|>",
        "</s>",
        "<|eot_id|>",
        "<end_of_turn>\n<eos>",
        "<｜end▁of▁sentence｜>",
        "<|im_end|>\n<|endoftext|>",
    ):
        query = [f"<s>p{answer}{end}" for answer in ANSWERS[:SIZE]]
        body = {"query": query, "prompts": ["p"] * SIZE, "labels": [None] * SIZE}
        found = server[1].post("/reward", json=body).json()["rewards"]
        assert found == pytest.approx(expected("p", ANSWERS[:SIZE]), abs=1e-6)


def test_verls_function_gets_the_same_rewards(server, expected):
    async def group(prompts, **facts):
        url = str(server[1].base_url)
        scores = (
            compute_score("set", text, "truth", {"prompt": prompt, **facts}, url=url, reward_router_address=None)
            for prompt, text in prompts
        )
        return await asyncio.gather(*scores)

    pairs = [("verl", text) for text in ANSWERS[:SIZE]]
    assert asyncio.run(group(pairs)) == pytest.approx(expected("verl", ANSWERS[:SIZE]), abs=1e-6)
    wanted = expected("verl", ANSWERS[:1], reference=[ANSWERS[5]])
    assert asyncio.run(group(pairs[:1], reference=ANSWERS[5])) == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(InputError, match="extra_info has index, expected `prompt`"):
        asyncio.run(compute_score("set", "x", extra_info={"index": 3}, url="http://127.0.0.1:9"))


def test_keys_are_needed_and_the_client_sends_them(folder, server):
    rewards = {"rewards": RewardSettings(SIZE, 1)}
    with served(folder, server[0].engine, keys=[KEY], app_options=rewards) as (_, client):
        refused(client.post("/reward", json={"prompt": "p", "response": "x"}), 401)
        asked = {"url": str(client.base_url), "extra_info": {"question": "p"}}
        with pytest.raises(ServerError, match="401"):
            asyncio.run(compute_score("set", "x", **asked))
        with pytest.raises(ServerError, match="409 incomplete_group"):
            asyncio.run(compute_score("set", "x", api_key=KEY, **asked))


@pytest.mark.parametrize("size", [1, 2000])
def test_a_group_that_can_never_be_whole_is_refused_at_the_start(size):
    with pytest.raises(InputError, match=f"--group-size is {size}, expected 2 to 1024"):
        RewardSettings(size).check(1024)


def test_a_group_of_too_many_pairs_is_refused_at_the_start_with_the_way_out():
    with pytest.raises(InputError, match="would judge 2016 pairs at once; .* --reward-method anchor or knockout"):
        RewardSettings(64).check(1024)
    for settings in (RewardSettings(32), RewardSettings(64, method="knockout"), RewardSettings(64, method="anchor")):
        settings.check(1024)
