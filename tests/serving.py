"""A judge behind HTTP without vLLM: the real app and uvicorn, with transformers where the engine would be."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from sft_judge.engines import open_engine
from sft_judge.models import load_tokenizer
from sft_judge.prompts import JudgePrompt
from sft_judge.serving.app import build_app
from sft_judge.serving.keys import Keys
from sft_judge.serving.limits import Limits
from sft_judge.serving.server import address, bound, uvicorn_server
from sft_judge.serving.service import Service
from sft_judge.spec import read_spec


class Reference:
    """transformers as the engine of a server. It keeps what it was asked, and waits while `busy`."""

    def __init__(self, engine):
        self.engine, self.alive, self.busy = engine, True, False
        self.asked: list[list[int]] = []
        self.cancelled = 0
        self._thread = ThreadPoolExecutor(1)  # the head is taken off the model while it runs

    async def score(self, prompts: list[list[int]]) -> np.ndarray:
        self.asked += prompts
        try:
            while self.busy:
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.engine.score, prompts)


@contextmanager
def served(folder: Path, engine=None, keys=(), **limits):
    """A service, and an httpx client of it, on a free port; `engine` is taken over from another service."""
    spec = read_spec(folder)
    engine = engine or Reference(open_engine("transformers", str(folder), spec))
    prompt = JudgePrompt.of(load_tokenizer(str(folder)), spec)
    service = Service("tiny", engine, prompt, spec, Limits(**limits))
    with bound("127.0.0.1", 0) as listener:
        server = uvicorn_server(build_app(service, Keys(list(keys))), service.limits, False)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        with httpx.Client(base_url=address(listener), timeout=60) as client:
            while not server.started:
                threading.Event().wait(0.01)
            try:
                yield service, client
            finally:
                engine.busy = False
                server.should_exit = True
                thread.join()
