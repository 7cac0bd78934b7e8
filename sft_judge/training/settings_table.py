"""
Handling of each setting of TRL's SFTConfig and ModelConfig in a recipe: used here, passed on, or refused.

A setting that is not in the table is refused if a recipe sets it, so that a new version of TRL cannot add one
unnoticed. The judge's own settings (see config.py) are all used. scripts/settings_page.py makes
`docs/reference/settings.md` from this table.
"""

from dataclasses import dataclass

USED, PASSED_ON, REFUSED = "used", "passed on", "refused"
LARGEST_VALUE = 10**9
DEFAULT_TEMPLATE = "pair"
GREATER_IS_BETTER = {"loss": False, "log_loss": False, "accuracy": True, "ece": False}
GREATER_IS_BETTER |= {"swap_agreement": True, "choice_mass": True}
GREATER_IS_BETTER |= {f"eval_{name}": better for name, better in GREATER_IS_BETTER.items()}


@dataclass(frozen=True)
class Setting:
    """Hold a setting's handling and remark. The remark of a refused setting is the reason that the user reads."""

    handling: str
    remark: str = ""
    allowed: tuple = ()  # values of a refused setting that mean the same as its default
    needs: str | None = None  # the setting without which this one has no effect


def _used(remark: str, needs: str | None = None) -> Setting:
    return Setting(USED, remark, needs=needs)


def _passed_on(remark: str = "", needs: str | None = None) -> Setting:
    return Setting(PASSED_ON, remark, needs=needs)


def _refused(reason: str, *allowed) -> Setting:
    return Setting(REFUSED, reason, allowed)


_OF_TRL_ROWS = "rows are made by sft_judge from prompt_template and the budgets, not by SFTTrainer"
_OF_PACKING = "a packed row has several answers, and attention would cross them; use padding_free"
_OF_LAUNCHER = "the launcher sets up FSDP: sft-judge launch --config_file fsdp"
_OF_FIGURES = "sft_judge computes its own metrics over all held-out battles at once"
_OF_PUSH = "only the finished judge is pushed, by push_to_hub"
_OF_SCRIPTS = "the command trains, and evaluates if eval_strategy is set"

TRAINING = {
    "output_dir": _used("the judge's folder; unfinished work is kept beside it"),
    "per_device_train_batch_size": _passed_on("in battles, each of one or two rows (`swap`)"),
    "num_train_epochs": _passed_on(),
    "max_steps": _passed_on(),
    "learning_rate": _passed_on(),
    "lr_scheduler_type": _passed_on("tested with its kwargs before the model is loaded"),
    "lr_scheduler_kwargs": _passed_on(),
    "warmup_steps": _passed_on("below 1: a share of all steps"),
    "optim": _passed_on("tested with its arguments before the model is loaded"),
    "optim_args": _passed_on("refused if the optimiser does not use them"),
    "optim_target_modules": _passed_on("refused if the optimiser does not use it"),
    "weight_decay": _passed_on(),
    "adam_beta1": _passed_on("refused if the optimiser does not use it"),
    "adam_beta2": _passed_on("refused if the optimiser does not use it"),
    "adam_epsilon": _passed_on("refused if the optimiser does not use it"),
    "gradient_accumulation_steps": _passed_on(),
    "average_tokens_across_devices": _used("divide the loss by the rows of all processes, or of each process"),
    "max_grad_norm": _passed_on(),
    "label_smoothing_factor": _used("label smoothing of the hard labels over the verdicts"),
    "bf16": _used(""),
    "fp16": _passed_on("needs a GPU"),
    "bf16_full_eval": _refused("Trainer accepts it only if it does not train"),
    "fp16_full_eval": _refused("Trainer accepts it only if it does not train"),
    "tf32": _passed_on("needs a GPU"),
    "gradient_checkpointing": _passed_on(),
    "gradient_checkpointing_kwargs": _passed_on(
        "use_reentrant, preserve_rng_state and TRL's selective", "gradient_checkpointing"
    ),
    "torch_compile": _passed_on(),
    "torch_compile_backend": _passed_on("enables torch_compile"),
    "torch_compile_mode": _passed_on("enables torch_compile"),
    "use_liger_kernel": _passed_on("deprecated by TRL in favour of use_kernels; without the fused loss; needs a GPU"),
    "liger_kernel_config": _passed_on("", "use_liger_kernel"),
    "use_cache": _refused("training does not use a key-value cache"),
    "neftune_noise_alpha": _passed_on(),
    "torch_empty_cache_steps": _passed_on(),
    "auto_find_batch_size": _refused("the batch size is part of the recipe; --plan shows what fits"),
    "logging_strategy": _passed_on(),
    "logging_steps": _passed_on("below 1: a share of all steps"),
    "logging_first_step": _passed_on(),
    "log_on_each_node": _passed_on(),
    "logging_nan_inf_filter": _passed_on("applies to the log only; a loss that is not finite stops the run anyway"),
    "include_num_input_tokens_seen": _passed_on("true or false"),
    "log_level": _passed_on(),
    "log_level_replica": _passed_on(),
    "disable_tqdm": _used(""),
    "report_to": _passed_on("trackers; each must be installed"),
    "run_name": _passed_on("name of the run in the trackers", "report_to"),
    "project": _passed_on("for trackio", "report_to"),
    "trackio_space_id": _passed_on("for trackio", "report_to"),
    "trackio_bucket_id": _passed_on("for trackio", "report_to"),
    "trackio_static_space_id": _passed_on("for trackio", "report_to"),
    "eval_strategy": _passed_on("needs `fold`, `dataset_name` with a test split, or in Python an eval_dataset"),
    "eval_steps": _passed_on("", "eval_strategy"),
    "eval_delay": _passed_on("", "eval_strategy"),
    "per_device_eval_batch_size": _passed_on("", "eval_strategy"),
    "prediction_loss_only": _refused(_OF_FIGURES),
    "eval_on_start": _passed_on("needs eval_strategy"),
    "eval_do_concat_batches": _refused(_OF_FIGURES),
    "eval_use_gather_object": _refused(_OF_FIGURES),
    "eval_accumulation_steps": _passed_on("", "eval_strategy"),
    "include_for_metrics": _refused(_OF_FIGURES),
    "batch_eval_metrics": _refused(_OF_FIGURES),
    "save_only_model": _passed_on("checkpoints without the optimiser: a killed run cannot resume"),
    "save_strategy": _passed_on("for checkpoints; the finished judge is always saved"),
    "save_steps": _passed_on("", "save_strategy"),
    "save_on_each_node": _refused("nodes share the output folder, and a run resumes from one set of checkpoints"),
    "save_total_limit": _passed_on("", "save_strategy"),
    "enable_jit_checkpoint": _refused("a terminated run resumes from its last checkpoint; lower save_steps"),
    "push_to_hub": _used("push the finished judge to the Hub"),
    "hub_token": _used("", "push_to_hub"),
    "hub_private_repo": _used("", "push_to_hub"),
    "hub_model_id": _used("by default the folder's name in the user's namespace", "push_to_hub"),
    "hub_strategy": _refused(_OF_PUSH),
    "hub_always_push": _refused(_OF_PUSH),
    "hub_revision": _refused(_OF_PUSH),
    "load_best_model_at_end": _passed_on("needs eval_strategy"),
    "metric_for_best_model": _passed_on("loss, log_loss, accuracy, ece, swap_agreement or choice_mass"),
    "greater_is_better": _used("by default set by metric_for_best_model"),
    "ignore_data_skip": _refused("a resumed run would see some battles twice and others never"),
    "restore_callback_states_from_checkpoint": _refused("no callback here has a state that Trainer restores"),
    "full_determinism": _passed_on(),
    "seed": _used("seed of new weights, dropout and the order of battles"),
    "data_seed": _used("seed of the order of battles; by default `seed`"),
    "use_cpu": _used(""),
    "accelerator_config": _refused("the trainer distributes the batches; see per_device_train_batch_size"),
    "parallelism_config": _refused("sequence parallelism is not supported; use a launcher of recipes/accelerate"),
    "dataloader_drop_last": _passed_on(),
    "dataloader_num_workers": _passed_on(),
    "dataloader_pin_memory": _used(""),
    "dataloader_persistent_workers": _passed_on("needs dataloader_num_workers"),
    "dataloader_prefetch_factor": _passed_on("needs dataloader_num_workers"),
    "dataloader_multiprocessing_context": _passed_on("needs dataloader_num_workers"),
    "dataloader_in_order": _refused("the order of battles is part of the run"),
    "remove_unused_columns": _refused(_OF_TRL_ROWS),
    "label_names": _refused("the labels are the verdicts"),
    "train_sampling_strategy": _passed_on("with random, `battle_order` sets the order"),
    "length_column_name": _refused(_OF_TRL_ROWS),
    "ddp_find_unused_parameters": _passed_on("for several processes"),
    "ddp_bucket_cap_mb": _passed_on("for several processes"),
    "ddp_broadcast_buffers": _passed_on("for several processes"),
    "ddp_static_graph": _passed_on("for several processes"),
    "ddp_backend": _used(""),
    "ddp_timeout": _passed_on("in seconds, for several processes"),
    "fsdp": _refused(_OF_LAUNCHER, "", False),
    "fsdp_config": _refused(_OF_LAUNCHER),
    "deepspeed": _passed_on("a JSON file or its content, with a launcher; see recipes/accelerate"),
    "debug": _refused("a loss that is not finite stops the run and names its battles", "", [], None),
    "skip_memory_metrics": _refused("the manifest records the memory of a run"),
    "do_train": _refused(_OF_SCRIPTS, True),
    "do_eval": _refused(_OF_SCRIPTS),
    "do_predict": _refused("this command trains; use sft-judge predict"),
    "resume_from_checkpoint": _refused(
        "a run resumes from its last checkpoint automatically; to start from step 0, delete its .NAME.partial folder",
        *("true", "True", True),
    ),
    "local_rank": _passed_on("set by a launcher"),
    "model_init_kwargs": _used("for a model that JudgeTrainer loads; a recipe uses dtype and attn_implementation"),
    "trust_remote_code": _refused("remote code is never run"),
    "router_aux_loss_coef": _passed_on("for a mixture of experts"),
    "chat_template_path": _used("Jinja file of the chat template, set before the rows are made"),
    "dataset_text_field": _refused(_OF_TRL_ROWS),
    "dataset_kwargs": _refused(_OF_TRL_ROWS, {"skip_prepare_dataset": True}),
    "dataset_num_proc": _refused(_OF_TRL_ROWS),
    "eos_token": _used("set before the rows are made"),
    "max_length": _refused("SFTTrainer drops the rows it would truncate; set total_budget instead"),
    "truncation_mode": _refused(_OF_TRL_ROWS),
    "shuffle_dataset": _refused("battle_order and data_seed set the order"),
    "packing": _refused(_OF_PACKING),
    "packing_strategy": _refused(_OF_PACKING),
    "padding_free": _used("concatenate the rows of a batch instead of padding them; position_ids separate them"),
    "pad_to_multiple_of": _used("pad the width of a batch to a multiple of this number"),
    "eval_packing": _refused(_OF_PACKING, False),
    "completion_only_loss": _refused("the loss is on the verdict only", True),
    "assistant_only_loss": _refused("the loss is on the verdict only"),
    "loss_type": _refused("the loss is over the verdicts; see distill_weight and the other weights", "chunked_nll"),
    "activation_offloading": _passed_on("needs a GPU"),
    "pad_token": _used("set before the rows are made"),
}

MODEL = {
    "model_name_or_path": _used("base model, a folder or a Hub id"),
    "model_revision": _used("branch, tag or commit of a Hub id"),
    "dtype": _used(""),
    "attn_implementation": _passed_on("flash attention falls back to another one if it is not installed"),
    "use_peft": _used("train a LoRA adapter instead of all weights"),
    "lora_r": _used("", "use_peft"),
    "lora_alpha": _used("", "use_peft"),
    "lora_dropout": _passed_on("", "use_peft"),
    "lora_target_modules": _used("", "use_peft"),
    "lora_target_parameters": _refused("merge and vLLM support adapters of modules only; see lora_target_modules"),
    "lora_modules_to_save": _passed_on("names of modules that are trained in full", "use_peft"),
    "lora_task_type": _refused("a judge is a causal language model; sft-judge export converts it to a classifier"),
    "use_rslora": _passed_on("", "use_peft"),
    "use_dora": _passed_on("", "use_peft"),
    "load_in_8bit": _used("load the base in 8 bits; needs use_peft and bitsandbytes"),
    "load_in_4bit": _used("load the base in 4 bits; needs use_peft and bitsandbytes"),
    "bnb_4bit_quant_type": _passed_on("", "load_in_4bit"),
    "use_bnb_nested_quant": _passed_on("", "load_in_4bit"),
    "bnb_4bit_quant_storage": _passed_on("", "load_in_4bit"),
}

_OF_LABELS = ("distill_weight", "distill_temperature", "distill_kind", "distill_confidence", "teacher_ties")
OWN = {  # the judge's own settings that need another one
    **{name: _used("", "labels") for name in (*_OF_LABELS, "correct_above", "allow_in_sample", "external_teacher")},
    "spike_factor": _used("", "on_spike"),
    "lora_init": _used("", "use_peft"),
}

_COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "ddp_timeout")
_COUNTS += ("prompt_budget", "response_budget", "total_budget", "token_budget", "limit", "collapse_after")
_COUNTS += ("spike_factor", "save_total_limit", "eval_accumulation_steps", "torch_empty_cache_steps")
_COUNTS += ("ddp_bucket_cap_mb", "dataloader_prefetch_factor", "dataset_num_proc")
_AMOUNTS = ("warmup_steps", "weight_decay", "max_grad_norm", "eval_delay")
_AMOUNTS += ("fold", "holdout_fold")
RANGES = {  # also of TRL's settings: a value that TRL accepts silently may fail in a traceback, or train nothing
    "learning_rate": (0, 1),
    "adam_beta1": (0, 0.99999),
    "adam_beta2": (0, 0.99999),
    "adam_epsilon": (0, 1),
    "num_train_epochs": (1e-6, LARGEST_VALUE),
    "max_steps": (-1, LARGEST_VALUE),
    "local_rank": (-1, LARGEST_VALUE),
    "num_verdicts": (2, 3),
    "pad_to_multiple_of": (1, 4096),
    "dataloader_num_workers": (0, 1024),
    "label_smoothing_factor": (0, 1),
    "ema_decay": (0, 0.99999),
    "correct_above": (0.5, 1),
    "lora_r": (1, 2**16),
    "lora_alpha": (1, 2**16),
    "lora_dropout": (0, 0.999),
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1)),
    **dict.fromkeys(_COUNTS, (1, LARGEST_VALUE)),
    **dict.fromkeys(_AMOUNTS, (0, LARGEST_VALUE)),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), (1e-6, LARGEST_VALUE)),
    **dict.fromkeys(("margin_scale", "agreement_weight", "full_vocab_weight", "rdrop_weight"), (0, 1000)),
    **dict.fromkeys(("neftune_noise_alpha", "router_aux_loss_coef"), (0, 1000)),
}
