"""
Query a served judge with the Python client.

    sft-judge serve --model runs/judge --port 8000
    python examples/ask_a_served_judge.py --url http://127.0.0.1:8000

The same with curl:

    curl http://127.0.0.1:8000/v1/judge -H "content-type: application/json" \
        -d '{"prompt": "Name a prime number.", "response_a": "7 is one.", "response_b": "Nine."}'
"""

import argparse
import os

from sft_judge.client import JudgeClient

BATTLES = [
    {"id": "prime", "prompt": "Name a prime number.", "response_a": "7 is one.", "response_b": "Nine."},
    {"id": "two turns", "prompt": ["Hello!", "Bye!"], "response_a": ["Hi.", "See you."], "response_b": ["Yes?", "No"]},
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    args = parser.parse_args()

    with JudgeClient(args.url, api_key=os.environ.get("JUDGE_API_KEY")) as client:
        for judged in client.judge(BATTLES, swap="both"):
            shares = ", ".join(f"{name} {judged[name]:.3f}" for name in ("a", "b", "tie"))
            print(f"{judged['id']}: {shares}: {judged['verdict']}")


if __name__ == "__main__":
    main()
