"""gpu_check.py on the CPU: every leg gives numbers, a second count agrees with its formulas. No time is asserted."""

import importlib.util
import json
import math
import sys
import time
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen2Config

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.append(str(SCRIPTS))  # as `python scripts/gpu_check.py` has it
import gpu_check  # noqa: E402
import gpu_models  # noqa: E402
import measuring  # noqa: E402

unit, engine = pytest.mark.unit, pytest.mark.engine
HOW = ("activations kept", "checkpointed")


def run(tmp_path, *words: str) -> dict[str, dict]:
    """The results of a dry run by leg; it must have gone well."""
    output = tmp_path / "gpu.json"
    assert gpu_check.main(["--dry-run", "--output", str(output), *words]) == 0
    written = json.loads(output.read_text())
    assert written["dry_run"] and written["versions"]["torch"] and written["published_flops_per_second"] is None
    results = {result["leg"]: result for result in written["results"]}
    assert len(results) == len(written["results"])
    return results


def check_numbers(result: dict) -> None:
    """Every number is there, finite and above zero."""
    assert result["status"] == "done", result
    numbers = {name: value for name, value in result.items() if type(value) in (int, float)}
    assert numbers and all(math.isfinite(value) and value > 0 for value in numbers.values()), result


@engine
def test_a_dry_run_gives_numbers_for_every_leg_of_training(tmp_path):
    results = run(tmp_path, "training")
    expected = {f"{shape.name}, ceiling" for shape in gpu_models.SMALL_SHAPES}
    for shape in gpu_models.SMALL_SHAPES:
        for (tokens, rows), how in product(shape.rows.items(), HOW):
            legs = (*gpu_check.STEP_LEGS.values(), "whole step")
            expected |= {f"{shape.name}, {rows} x {tokens} tokens, {how}, {leg}" for leg in legs}
    assert set(results) == expected
    for leg, result in results.items():
        check_numbers(result)
        if leg.endswith("whole step"):
            assert result["ratio"] == pytest.approx(result["planned_bytes"] / result["peak_bytes"])
        elif not leg.endswith("ceiling"):
            check_utilisation(leg, result, results)


def check_utilisation(leg: str, result: dict, results: dict[str, dict]) -> None:
    """The rates of a step agree with its time and the ceiling."""
    shape = next(shape for shape in gpu_models.SMALL_SHAPES if leg.startswith(shape.name))
    rows, tokens = (int(word) for word in leg.removeprefix(f"{shape.name}, ").split(" tokens")[0].split(" x "))
    assert result["tokens_per_second"] * result["seconds"] == pytest.approx(rows * tokens)
    assert result["flops"] == gpu_models.model_flops(shape.config, rows, tokens, "last_layer" in leg)
    ceiling = results[f"{shape.name}, ceiling"]["tflops_per_second"] * 1e12
    assert result["of_ceiling"] * ceiling * result["seconds"] == pytest.approx(result["flops"])
    assert result["mfu"] is None


@engine
def test_the_legs_of_a_step_compute_what_they_say():
    """The trunk all but our head's K rows, TRL's the whole head, `last_layer` less than either."""
    bench, counted = gpu_models.MixedBench(gpu_models.SMALL_SHAPES[1], "cpu"), {}
    bench.set_rows(2, 64)
    for leg in gpu_check.STEP_LEGS:
        with FlopCounterMode(display=False) as counter:
            bench.step(leg)
        counted[leg] = counter.get_total_flops()
    assert counted["ours"] == pytest.approx(counted["trunk"], rel=0.01)
    assert counted["last_layer"] < 0.8 * counted["ours"] and counted["trl"] > 1.2 * counted["ours"]


@engine
def test_a_dry_run_trains_twice_alike_and_by_the_recipe(tmp_path):
    results = run(tmp_path, "determinism", "smollm2")
    twice = results["determinism"]
    assert twice["status"] == "done" and twice["same"] is True
    assert [len(losses) for losses in twice["losses"]] == [gpu_check.TRAINED_STEPS] * 2
    assert len(set(twice["losses"][0])) > 1 and all(0 < loss < 10 for losses in twice["losses"] for loss in losses)
    check_numbers(results["smollm2"])
    assert {f"{figure}_{when}" for figure in ("log_loss", "accuracy") for when in ("before", "after")} <= set(
        results["smollm2"]
    )


@engine
def test_a_dry_run_takes_steps_on_weights_of_4_bits(tmp_path):
    pytest.importorskip("bitsandbytes")
    results = run(tmp_path, "qlora")
    assert len(results) == sum(len(shape.rows) for shape in gpu_models.SMALL_SHAPES)
    for result in results.values():
        check_numbers(result)


@engine
@pytest.mark.full  # the engines themselves are in tests/integration/test_engines.py
def test_a_dry_run_predicts_with_both_engines(tmp_path):
    pytest.importorskip("vllm")
    [result] = run(tmp_path, "vllm").values()
    check_numbers(result)
    assert result["largest_difference"] < 0.02  # of bfloat16


@unit
@pytest.mark.parametrize("last_layer", [False, True])
def test_the_flops_of_a_step_are_what_torch_counts(last_layer):
    """All weights frozen, the input's gradient asked for; eager attention multiplies the masked half too."""
    from sft_judge.modeling.verdict_head import at_answers_alone

    rows, tokens, sizes = 2, 48, {**gpu_models.SMALL_SHAPES[1].sizes, "num_hidden_layers": 3}
    config = Qwen2Config(**sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").requires_grad_(False)
    answers = (torch.arange(rows), torch.full((rows,), tokens - 2))
    if last_layer:
        at_answers_alone(model, lambda: answers)
    given = torch.randn(rows, tokens, config.hidden_size, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model.model(inputs_embeds=given, use_cache=False).last_hidden_state[answers].sum().backward()
    masked = config.num_hidden_layers * rows * 6 * tokens**2 * config.hidden_size
    expected = gpu_models.model_flops(config, rows, tokens, last_layer) + masked
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


@unit
def test_the_shapes_have_the_sizes_of_the_real_models():
    """Parameters as their model cards have them: 0.49 and 0.36 billion without embeddings, 7.61 and 6.53."""
    for shape, whole, layers in zip(gpu_models.SHAPES, (0.49e9, 7.61e9), (0.36e9, 6.53e9), strict=True):
        assert shape.bytes / 2 == pytest.approx(whole, rel=0.02)
        assert gpu_models.linear_weights(shape.config) == pytest.approx(layers, rel=0.02)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape.config)
        assert shape.bytes / 2 == pytest.approx(model.num_parameters(), rel=1e-3)


@unit
def test_utilisation_is_of_the_rate_that_is_published():
    assert gpu_models.published_rate("NVIDIA H200") == gpu_models.published_rate("NVIDIA H100 80GB HBM3") == 989e12
    assert gpu_models.published_rate("NVIDIA A100-SXM4-80GB") == 312e12
    assert gpu_models.published_rate("NVIDIA GeForce RTX 4090") == 165e12
    assert gpu_models.published_rate("NVIDIA L4") == 121e12 and gpu_models.published_rate("NVIDIA L40S") == 362e12
    assert gpu_models.published_rate("NVIDIA GeForce RTX 3080") is None
    assert gpu_models.utilisation(4e14, 0.5, 1.6e15) == 0.5 and gpu_models.utilisation(4e14, 0.5, None) is None


def raise_out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


def raise_broken():
    raise RuntimeError("broken\nin two lines")


@unit
def test_what_goes_wrong_is_a_legs_result_and_the_next_one_runs(tmp_path, monkeypatch, capsys):
    def legs(report):
        report.run("large", raise_out_of_memory)
        report.run("broken", raise_broken)
        report.end = time.monotonic() + 0.2
        report.run("slow", time.sleep, 60, seconds=0)
        report.run("late", dict, seconds=3600)
        report.end += 60
        report.run("fine", lambda: {"seconds": 1.5})

    monkeypatch.setattr(gpu_check, "LEGS", {"one": (legs, None), "other": (legs, "no_such_package")})
    output = tmp_path / "gpu.json"
    assert gpu_check.main(["--dry-run", "--output", str(output)]) == 1
    results = {result["leg"]: result["status"] for result in json.loads(output.read_text())["results"]}
    assert results["large"] == "out of GPU memory" and results["fine"] == "done"
    assert results["broken"] == "failed: RuntimeError: broken in two lines"
    assert results["slow"].startswith("stopped") and results["late"].startswith("left out")
    assert results["other"] == "left out: no_such_package is not installed"
    assert "fine: seconds 1.5" in capsys.readouterr().out.splitlines()


@unit
def test_results_are_written_after_each_leg(tmp_path):
    report = measuring.Report(tmp_path / "gpu.json", "cpu", (), {"device": "x"}, time.monotonic() + 60, None)
    for number in (1, 2):
        report.run(f"leg {number}", lambda: {"seconds": 0.5})
        assert len(json.loads(report.output.read_text())["results"]) == number


@unit
@pytest.mark.parametrize("words, said", [(["trainin"], "expected of training"), (["--smollm2", "nowhere"], "nowhere")])
def test_what_is_not_known_is_refused_in_a_line(words, said, capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(words)
    assert said in capsys.readouterr().err.splitlines()[-1]


@unit
def test_without_trl_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None if name == "trl" else importlib.util.find_spec(name))
    assert gpu_check.main([]) == 2 and "trl not installed" in capsys.readouterr().err
