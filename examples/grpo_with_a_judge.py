"""
Use a judge as the reward function of GRPO: a completion is rewarded for being preferred over the others of its prompt.

    python examples/grpo_with_a_judge.py --judge runs/judge --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
        --dataset_name trl-lib/ultrafeedback-prompt --output_dir policy --num_generations 8
"""

from dataclasses import dataclass, field

from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer, ModelConfig, ScriptArguments, TrlParser, get_peft_config

from sft_judge import Judge
from sft_judge.rewards import JudgeReward


@dataclass
class JudgeArguments:
    judge: str = field(metadata={"help": "folder or Hub id of the judge"})


def main():
    parser = TrlParser((JudgeArguments, ScriptArguments, GRPOConfig, ModelConfig))
    own, script, config, model = parser.parse_args_and_config()
    trainer = GRPOTrainer(
        model=model.model_name_or_path,
        reward_funcs=JudgeReward(Judge.load(own.judge)),
        args=config,
        train_dataset=load_dataset(script.dataset_name, script.dataset_config, split=script.dataset_train_split),
        peft_config=get_peft_config(model),
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
