"""
Sample several answers, and keep the answer that a judge prefers over the others.

    python examples/best_of_n.py --judge runs/judge --model Qwen/Qwen2.5-0.5B-Instruct --prompt "Explain rain." --n 8

`sft-judge best-of-n` does the same for files of candidates, with fewer judgements if there are many candidates.
"""

import argparse

from transformers import pipeline

from sft_judge import Judge
from sft_judge.rewards import JudgeReward


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", required=True, help="folder or Hub id of the judge")
    parser.add_argument("--model", required=True, help="model that generates the answers")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--max_new_tokens", type=int, default=256)
    args = parser.parse_args()

    writer = pipeline("text-generation", model=args.model)
    options = {"max_new_tokens": args.max_new_tokens, "do_sample": True, "num_return_sequences": args.n}
    chats = writer([{"role": "user", "content": args.prompt}], **options)
    answers = [chat["generated_text"][-1]["content"] for chat in chats]
    with Judge.load(args.judge) as judge:
        rewards = JudgeReward(judge)([args.prompt] * args.n, answers)
    for reward, answer in sorted(zip(rewards, answers, strict=True), reverse=True):
        print(f"{reward:.3f}  {answer[:100]!r}")


if __name__ == "__main__":
    main()
