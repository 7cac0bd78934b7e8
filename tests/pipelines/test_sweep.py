"""A sweep file to runs and results: shared work is done once, what failed is said, and no winner without proof."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.data.battles import read_battles
from sft_judge.data.probs import read_probs
from sft_judge.pipelines.pipeline import first_output
from sft_judge.pipelines.sweep import read_sweep, unique_steps
from sft_judge.pipelines.sweep_report import Scores, choose_trials, confirm_winner, summary, table_of

ROOT = Path(__file__).parents[2]
unit, engine = pytest.mark.unit, pytest.mark.engine
SWEEP = """
vars: {run: "RUN"}
seeds: [1, 2]
cells: {plain: {}, smooth: {train.label_smoothing_factor: 0.1}}
grid: {train.learning_rate: [1.0e-3, 2.0e-3]}
reference: plain
score: {probs: "{run}/{cell}/{seed}.parquet", battles: "{run}/test.parquet", truth: "{run}/planted/truth/test.parquet"}
steps:
  plant: {rows: 60, test_rows: 40, shifted_rows: 1, seed: 3, output: "{run}/planted"}
  import: {args: ["{run}/planted/train.csv"], output: "{run}/train.parquet"}
  import-test: {stage: import, args: ["{run}/planted/test.csv"], output: "{run}/test.parquet"}
  train:
    config: tiny/train
    model_name_or_path: MODEL
    battles: "{run}/train.parquet"
    seed: "{seed}"
    max_steps: 3
    save_strategy: "no"
    output_dir: "{run}/{cell}/judge-{seed}"
  predict: {model: "{run}/{cell}/judge-{seed}", battles: "{run}/test.parquet", output: "{run}/{cell}/{seed}.parquet"}
"""


@pytest.fixture
def sweep_file(tmp_path):
    def write(*changes: tuple[str, str], model: str = "org/model") -> Path:
        text = SWEEP.replace("RUN", str(tmp_path / "run")).replace("MODEL", str(model))
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "sweep.yaml").write_text(text)
        return tmp_path / "sweep.yaml"

    return write


def all_runs(sweep):
    return [sweep.run(cell, seed) for seed in sweep.seeds for cell in sweep.trials]


@unit
def test_shared_steps_stand_once_and_each_waits_for_those_before_it_in_every_run(sweep_file):
    runs = all_runs(read_sweep(sweep_file()))
    steps, before = unique_steps(runs)
    assert len(runs) == 8 and [step.name for step in steps].count("plant") == 1
    assert len(steps) == 3 + 2 * len(runs) == len({first_output(step) for step in steps})
    for run in runs:
        places = [steps.index(step) for step in run.steps]
        assert all(one in before[other] for one, other in zip(places, places[1:], strict=False))


@unit
def test_a_cells_settings_and_the_seed_reach_its_steps_alone(sweep_file):
    sweep = read_sweep(sweep_file())
    for cell, smoothing, rate in (("smooth", "0.1", None), ("learning_rate 0.002", None, "0.002")):
        words = next(step.argv for step in sweep.run(cell, 2).steps if step.name == "train")
        given = dict(zip(words, words[1:], strict=False))
        assert (given.get("--label_smoothing_factor"), given.get("--learning_rate")) == (smoothing, rate)
        assert given["--seed"] == "2" and re.search(r"[/-]2$", given["--output_dir"])


@unit
@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("seeds: [1, 2]", "seed: [1, 2]", "unknown key 'seed'. Did you mean 'seeds'?"),
        ("seeds: [1, 2]", "seeds: [1, 2]\nconfirm: [2]", "seed 2 is in seeds and in confirm"),
        ("reference: plain", "reference: hard", "the reference 'hard' is not a trial"),
        ("reference: plain", "", "a sweep needs 'reference'"),
        ("smooth: {train.", "smooth: {trane.", "unknown step 'trane'. Did you mean 'train'?"),
        ("smooth: {train.", "plain!: {train.", "two trials would share a folder"),
        ("{cell}/judge-", "judge-", "would both write"),
        ("score:", "measure: acuracy\nscore:", "measure is 'acuracy'"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_runs(sweep_file, tmp_path, capsys, old, new, reason):
    assert main(["sweep", str(sweep_file((old, new)))]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def scores_of(measure: str, seeds: list[int], means: dict[str, float], noise: float) -> Scores:
    """Drawn scores of 200 battles, each cell with its mean."""
    rng, scores = np.random.default_rng(0), Scores(measure)
    scores.clusters = np.arange(200)
    for seed in seeds:
        shared = rng.normal(0.9, 0.3, 200)
        for cell, mean in means.items():
            scores.values[cell, seed] = shared + mean + rng.normal(0, noise, 200)
    scores.raw = scores.values
    return scores


@unit
def test_a_winner_is_called_only_where_the_interval_is_off_zero(sweep_file):
    sweep = read_sweep(sweep_file(("reference: plain", "reference: [plain, smooth]\nconfirm: [3, 4, 5]")))
    rates = ["learning_rate 0.001", "learning_rate 0.002"]
    for gap, said in ((0.05, f"{rates[1]} is better than smooth"), (0.0001, "no winner: no difference seen")):
        means = {"plain": 0.01, "smooth": 0.0, rates[0]: 0.0, rates[1]: -gap}
        scores = scores_of("log_loss", [1, 2, 3, 4, 5], means, 0.05 if gap > 0.01 else 0.3)
        chosen = choose_trials(sweep, scores)
        if gap > 0.01:
            assert chosen == (rates[1], "smooth")
        verdict = confirm_winner(sweep, scores, *chosen)["verdict"]
        assert verdict.startswith(said) and "on fresh seeds 3, 4, 5" in verdict and "100 battles" in verdict
        result = summary(sweep, scores, chosen)
        assert result["verdict"] == verdict and (result["battles"], result["confirm_battles"]) == (100, 100)
        assert "100 battles to choose by, 100 held out to confirm by" in table_of(result).note


@unit
def test_a_trial_that_suits_the_battles_that_chose_it_is_not_confirmed_on_them(sweep_file):
    sweep = read_sweep(sweep_file(("seeds: [1, 2]", "seeds: [1, 2]\nconfirm: [3, 4]")))
    won = 0
    for seed in range(60):
        rng, scores = np.random.default_rng(seed), Scores("log_loss")
        scores.clusters = np.arange(200)
        for cell in [*sweep.trials, *(f"more {place}" for place in range(20))]:
            sweep.trials.setdefault(cell, {})
            suits = rng.normal(0, 0.3, 200)  # the same with every seed; the mean over all battles is 0
            for number in (1, 2, 3, 4):
                scores.values[cell, number] = suits + rng.normal(0, 0.05, 200)
        verdict = confirm_winner(sweep, scores, *choose_trials(sweep, scores))["verdict"]
        won += " is better than plain" in verdict
    assert won <= 6  # of 60 at 2.5 %; on the battles that chose it is 10


@unit
def test_too_few_prompts_to_halve_confirm_nothing(sweep_file):
    sweep = read_sweep(sweep_file(("seeds: [1, 2]", "seeds: [1, 2]\nconfirm: [3, 4]")))
    scores = scores_of("log_loss", [1, 2, 3, 4], {"plain": 0.5, "smooth": 0.0}, 0.01)
    scores.clusters = np.arange(200) % 3
    said = confirm_winner(sweep, scores, *choose_trials(sweep, scores))
    assert said["confirmed"] is None and "smooth is not confirmed: prompts of fewer than 4 groups" in said["verdict"]


@unit
def test_looking_at_many_cells_widens_the_interval_where_no_fresh_seeds_are_named(sweep_file):
    sweep = read_sweep(sweep_file())
    scores = scores_of("accuracy", [1, 2], dict.fromkeys(sweep.trials, 0.0), 0.2)
    plain, widened = scores.difference("smooth", "plain", [1, 2]), confirm_winner(sweep, scores, "smooth", "plain")
    assert widened["confirmed"]["high"] - widened["confirmed"]["low"] > 1.1 * (plain.high - plain.low)
    assert "allowing for 3 trials looked at" in widened["verdict"]


def command(file: Path) -> list[str]:
    return [sys.executable, "-m", "sft_judge", "sweep", str(file), "--jobs", "1"]


@engine
@pytest.mark.full  # tests/integration/test_killed_pipeline.py kills a pipeline in the same way
def test_a_killed_sweep_goes_on_beside_another_and_ends_with_what_each_judge_is_worth(sweep_file, bases, tmp_path):
    file = sweep_file(("grid: {train.learning_rate: [1.0e-3, 2.0e-3]}", ""), model=bases["qwen2"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command(file), stdout=subprocess.DEVNULL, env=environment)
    while first.poll() is None and not (tmp_path / "run/plain/judge-1/manifest.json").is_file():  # made last
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    made = (tmp_path / "run/plain/judge-1/judge.json").stat().st_mtime_ns
    both = [subprocess.Popen(command(file), stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    started = [line.split("] ")[1] for text in said for line in text.splitlines() if line.startswith("[")]
    assert len(started) == len(set(started))  # no step was done by both
    assert (tmp_path / "run/plain/judge-1/judge.json").stat().st_mtime_ns == made
    result = json.loads((tmp_path / "run/sweep.json").read_text())
    for cell in ("plain", "smooth"):
        by_seed = [expected_log_loss(tmp_path / f"run/{cell}/{seed}.parquet", tmp_path / "run") for seed in (1, 2)]
        assert result["cells"][cell]["value"]["value"] == pytest.approx(np.mean(by_seed))
    assert not (tmp_path / "run/sweep.html").read_text().count("<script")


@engine
@pytest.mark.full
def test_a_second_ray_node_shares_the_work_and_its_death_loses_nothing(sweep_file, bases, tmp_path):
    """Two nodes on this machine; the second one is killed once it is at work."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    words = [*command(sweep_file(model=bases["qwen2"])), "--set", "seeds=[1,2,3,4,5,6]", "--ray", cluster.address]
    log, judges = tmp_path / "log.txt", tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(log, "w") as file:
        process = subprocess.Popen(words, stdout=file, env=environment)
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until and not made_elsewhere(judges, log):
            time.sleep(0.2)
        assert process.poll() is None and made_elsewhere(judges, log)
        cluster.remove_node(node, allow_graceful=False)
        assert process.wait(500) == 0
    finally:
        process.kill()
        cluster.shutdown()
        ray.shutdown()
    assert "Ray: 1 more nodes" in log.read_text()
    result = json.loads((judges / "sweep.json").read_text())
    assert [cell["value"]["seeds"] for cell in result["cells"].values()] == [6] * 4


def made_elsewhere(run: Path, log: Path) -> bool:
    """Whether a judge is done that the process with this log has not begun."""
    made = {str(path.parent) for path in run.glob("*/judge-*/judge.json")}
    return bool(made - {line.split(": ")[-1] for line in log.read_text().splitlines() if "train: " in line})


def expected_log_loss(probs: Path, run: Path) -> float:
    """By loops, from the files."""
    import pyarrow.parquet as pq

    said = read_probs(probs)
    truth = {row["id"]: [row[f"p_{name}"] for name in ("a", "b", "tie")] for row in rows_of(pq, run)}
    mean = {}
    for battle, logp in zip(said.ids, said.logp, strict=True):
        mean[battle] = mean.get(battle, 0) + np.exp(logp) / 2
    assert set(mean) == set(read_battles(run / "test.parquet")["id"].to_pylist())
    return float(np.mean([-np.dot(truth[battle], np.log(p)) for battle, p in mean.items()]))


def rows_of(pq, run: Path) -> list[dict]:
    return pq.read_table(run / "planted/truth/test.parquet").to_pylist()


@engine
def test_what_a_failed_step_spoils_is_left_out_and_all_else_is_done(sweep_file, bases, tmp_path, capsys):
    file = sweep_file(
        ("grid: {train.learning_rate: [1.0e-3, 2.0e-3]}", ""),
        ("train.label_smoothing_factor: 0.1", "train.lora_target_modules: nonsense"),
        ("seeds: [1, 2]", "seeds: [1]"),
        model=bases["qwen2"],
    )
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", str(file), "--jobs", "2"])
    said = capsys.readouterr()
    assert "train failed: sft-judge: lora_target_modules names 'nonsense'" in said.err
    assert "no run finished of: smooth" in said.out
    result = json.loads((tmp_path / "run/sweep.json").read_text())
    assert result["cells"]["plain"]["value"] and result["cells"]["smooth"]["value"] is None


@unit
def test_a_cell_may_do_without_a_step_and_a_sweep_may_extend_another_with_steps_of_its_own(sweep_file, tmp_path):
    sweep_file(("plain: {}", "plain: {drop: [predict]}"))
    audit = "{before: predict, args: ['{run}/train.parquet'], output: '{run}/audit'}"
    (tmp_path / "more.yaml").write_text(f"extends: sweep.yaml\nsteps: {{audit: {audit}}}\n")
    sweep = read_sweep(tmp_path / "more.yaml")
    names = {cell: [step.name for step in sweep.run(cell, 1).steps] for cell in ("plain", "smooth")}
    assert names["smooth"] == ["plant", "import", "import-test", "train", "audit", "predict"]
    assert names["plain"] == names["smooth"][:-1] and sweep.seeds == [1, 2]
    (tmp_path / "more.yaml").write_text("extends: sweep.yaml\nsteps: {audit: {before: predic, output: x}}\n")
    with pytest.raises(InputError, match="unknown step 'predic'. Did you mean 'predict'"):
        read_sweep(tmp_path / "more.yaml")


@unit
def test_set_changes_the_sweep_itself_too_and_an_unknown_step_is_named(sweep_file):
    assert read_sweep(sweep_file(), ["seeds=[7]", "plant.rows=9"]).seeds == [7]
    with pytest.raises(InputError, match="unknown step 'plan'"):
        read_sweep(sweep_file(), ["plan.rows=9"])
