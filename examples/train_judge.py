"""
Train a judge on preference data, and judge a battle with it.

    python examples/train_judge.py --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
        --dataset_name trl-lib/ultrafeedback_binarized --output_dir judge

Every setting of a `JudgeConfig` is an argument: --max_steps 100, --learning_rate 1e-5, --report_to trackio, ...
"""

from trl import ModelConfig, TrlParser, get_peft_config

from sft_judge import Judge, JudgeConfig, JudgeTrainer


def main():
    config, model = TrlParser((JudgeConfig, ModelConfig)).parse_args_and_config()
    trainer = JudgeTrainer(
        model=model.model_name_or_path,
        args=config,  # dataset_name and dataset_train_split name the training data
        peft_config=get_peft_config(model),  # with --use_peft
    )
    trainer.train()
    trainer.save_model()
    if config.push_to_hub:
        trainer.push_to_hub()

    with Judge.load(config.output_dir) as judge:
        print(judge.judge("Name a prime number.", "7 is one.", "Nine."))


if __name__ == "__main__":
    main()
