"""Several processes for a test, as torchrun would start them: a pool of them, joined anew for each call."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from mdistiller_ext.distributed import group


class Processes:
    """``processes(2, function, *arguments)`` calls a function of a test module in two joined processes."""

    def __init__(self) -> None:
        self._started: list[Any] = []

    def __call__(self, count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What the function returned in each process, by rank. Raises AssertionError with the traceback of a failure."""
        while len(self._started) < count:
            ours, theirs = multiprocessing.get_context("spawn").Pipe()
            process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            self._started.append((process, ours))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank, (_, pipe) in enumerate(self._started[:count]):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            pipe.send_bytes(pickle.dumps((place, function, arguments)))
        answers = [pickle.loads(pipe.recv_bytes()) for _, pipe in self._started[:count] if pipe.poll(120) or self._fail()]
        for rank, (worked, answer) in enumerate(answers):
            assert worked, f"process {rank}: {answer}"
        return [answer for _, answer in answers]

    def _fail(self) -> bool:
        self.close()
        raise AssertionError("a process gave no answer for two minutes: they wait for each other")

    def close(self) -> None:
        for process, pipe in self._started:
            pipe.close()
            process.kill()
            process.join()
        self._started = []


def _serve(pipe: Any) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            place, function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        os.environ.update({name: str(value) for name, value in place.items()})
        torch.manual_seed(0)
        try:
            with group():
                answer = True, function(*arguments)
        except BaseException:  # what it was is the test's to see
            answer = False, traceback.format_exc()
        pipe.send_bytes(pickle.dumps(answer))
