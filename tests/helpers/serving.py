"""A judge behind HTTP without vLLM: the real app and uvicorn, with transformers where the engine would be."""

import asyncio
import json
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np

from sft_judge.inference.engines import open_engine
from sft_judge.inference.serving.app import build_app
from sft_judge.inference.serving.auth import Keys
from sft_judge.inference.serving.limits import Limits
from sft_judge.inference.serving.server import address, bound, uvicorn_server
from sft_judge.inference.serving.service import Service
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt

BATTLE = {"prompt": "p", "response_a": "a", "response_b": "b"}
SECRET = "text-of-a-battle"
KEY = "a-key-of-sixteen-letters"
QUESTION = {"type": "choice", "choices": [{"value": value} for value in ("A", "B", "tie")]}
SPOKEN = {"output": [{"type": "message", "content": "text"}]}
BODIES = {  # of the routes that judge one battle
    "/v1/judge": BATTLE,
    "/v1/decisions": {"model": "tiny", "input": json.dumps(BATTLE), "questions": [QUESTION]},
    "/v1/systemone": {
        "state": BATTLE,
        "questions": {"q": {"type": "choice", "criteria": dict.fromkeys(("A", "B", "tie"))}},
    },
    "/reward": {"prompt": "p", "response": "a", "label": {"reference": "b"}},
    "/compare": {
        "conversation_history": [{"role": "user", "content": "p"}],
        "response_objs": [SPOKEN, {"output": [{"type": "message", "content": "other"}]}],
    },
}
LINES_TYPE = "application/x-ndjson"
JSON, LINES = {"content-type": "application/json"}, {"content-type": LINES_TYPE}


class Reference:
    """transformers as the engine of a server. It keeps what it was asked, and waits while `busy`."""

    def __init__(self, engine):
        self.engine, self.alive, self.busy = engine, True, False
        self.asked: list[list[int]] = []
        self.cancelled = 0
        self._thread = ThreadPoolExecutor(1)  # the head is taken off the model while it runs

    async def score(self, prompts: list[list[int]], fresh: bool = False) -> tuple:
        self.asked += prompts
        try:
            while self.busy:
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        logp = await asyncio.get_running_loop().run_in_executor(self._thread, self.engine.score, prompts)
        return logp, np.zeros(len(prompts), int)


@contextmanager
def served(folder: Path, engine=None, keys=(), app_options=None, uvicorn_options=None, **limits):
    """A service, and an httpx client of it, on a free port; `engine` is taken over from another service."""
    uvicorn_options = uvicorn_options or {}
    spec = read_spec(folder)
    engine = engine or Reference(open_engine("transformers", str(folder), spec))
    prompt = JudgePrompt.of(load_tokenizer(str(folder)), spec)
    service = Service("tiny", engine, prompt, spec, Limits(**limits))
    with bound("127.0.0.1", 0) as listener:
        app = build_app(service, Keys(list(keys)), **(app_options or {}))
        server = uvicorn_server(app, service.limits, False, **uvicorn_options)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        scheme = "https" if "ssl_certfile" in uvicorn_options else "http"
        verify = uvicorn_options.get("ssl_certfile", True)
        context = ssl.create_default_context(cafile=verify) if scheme == "https" else True
        with httpx.Client(base_url=address(listener, scheme), timeout=60, verify=context) as client:
            while not server.started:
                threading.Event().wait(0.01)
            try:
                yield service, client
            finally:
                engine.busy = False
                server.should_exit = True
                thread.join()


def shares(judgements) -> np.ndarray:
    return np.array([[judged[name] for name in ("a", "b", "tie")] for judged in judgements])


def refused(response, status: int, param: str | None = None) -> str:
    """The message of an error, whose form and status are held, and which repeats nothing of the battle."""
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert set(error) == {"code", "message", "param"} and error["code"] and error["message"]
    assert SECRET not in response.text and "Traceback" not in response.text
    return error["message"]


def connected(client, request: str, *headers: str, content_type: str = "application/json"):
    """A socket to the server on which the head of a request was sent."""
    where = urlsplit(str(client.base_url))
    peer = socket.create_connection((where.hostname, where.port), timeout=20)
    head = [f"{request} HTTP/1.1", "Host: x", f"Content-Type: {content_type}", *headers]
    peer.sendall("\r\n".join([*head, "", ""]).encode())
    return peer


def eventually(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
