"""
Check of the flags for vLLM that follow `--`: those that would do nothing, or change what the judge computes.

Only vLLM's engine is used here. Flags of its own HTTP server would be read and have no effect, so they are refused,
with the flag of `sft-judge serve` that does the same. So are flags that contradict judge.json or our promises:
safetensors only, no code from a model's repository.
"""

from argparse import Namespace
from dataclasses import fields

from sft_judge.core.errors import InputError
from sft_judge.modeling.judge_spec import JudgeSpec

OURS = {  # flag of vLLM: ours
    **{name: f"--{name.replace('_', '-')}" for name in ("host", "port", "root_path", "ssl_keyfile", "ssl_certfile")},
    "api_key": "--api-key-file",
    "served_model_name": "--name",
    "model": "--model",
    "model_tag": "--model",
    "dtype": "--dtype",
    "disable_uvicorn_access_log": "--log-requests",
    "enable_log_requests": "--log-requests",
    "shutdown_timeout": "--max-seconds",
}
# of vLLM's HTTP server, used by its routes under --with-openai
OPENAI = (
    *("chat_template", "chat_template_content_format", "default_chat_template_kwargs", "response_role"),
    *("return_tokens_as_token_ids", "enable_auto_tool_choice", "exclude_tools_when_tool_choice_none"),
    *("tool_call_parser", "tool_strict_level", "enable_prompt_tokens_details", "enable_force_include_usage"),
    *("enable_per_request_metrics", "sse_keep_alive_interval", "fingerprint_mode", "fingerprint_value"),
)
SERVER = ("headless", "api_server_count", "grpc")  # of the server, but not among its dataclass's fields
FIXED = (  # these would load or compute something else than the judge
    *("tokenizer", "tokenizer_mode", "hf_config_path", "hf_overrides", "model_class_overrides", "config_format"),
    *("revision", "code_revision", "tokenizer_revision", "trust_remote_code", "load_format", "quantization"),
    *("quantization_config", "runner", "convert", "skip_tokenizer_init", "enable_prompt_embeds", "pooler_config"),
    *("logits_processors", "io_processor_plugin", "worker_cls", "worker_extension_cls", "logprobs_mode"),
    *("generation_config", "override_generation_config", "enable_lora", "lora_modules", "watermark_config"),
)


def check_flags(args: Namespace, defaults, spec: JudgeSpec, with_openai: bool) -> None:
    """
    Check the parsed flags of vLLM.

    Args:
        args: the parsed flags.
        defaults: returns the default of a flag, with the judge's own settings as defaults.
        spec: the judge's judge.json.
        with_openai: True if vLLM's OpenAI routes are served.

    Raises:
        InputError: a flag has no effect here, or contradicts judge.json.
    """
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    server = {*SERVER, *(field.name for field in fields(FrontendArgs))} - (set(OPENAI) if with_openai else set())
    for name in (*sorted(server | set(OURS)), *FIXED):
        if getattr(args, name, None) != defaults(name):
            raise InputError(f"{flag(name)} of vLLM {_why(name)}.")
    total, longest = spec.budget.total, args.max_model_len
    if longest is not None and longest < total:
        raise InputError(
            f"--max-model-len {longest} of vLLM is below the judge's total_budget, {total} tokens, so longer battles "
            "would fail. Remove it, or give more."
        )
    if 0 <= args.max_logprobs < spec.num_verdicts:
        raise InputError(
            f"--max-logprobs {args.max_logprobs} of vLLM is below the number of verdicts, {spec.num_verdicts}. "
            "Remove it."
        )


def flag(name: str) -> str:
    """Return the flag of an argument's name."""
    return f"--{name.replace('_', '-')}"


def _why(name: str) -> str:
    if name in OURS:
        return f"has no effect here; give {OURS[name]} before the `--`"
    if name in OPENAI:
        return "is for its OpenAI routes; add --with-openai before the `--`, or remove it"
    if name in FIXED:
        return "would change what the judge computes or loads; remove it"
    return "is of its HTTP server, which is not used here; remove it"
