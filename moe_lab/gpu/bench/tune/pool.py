# SPDX-License-Identifier: Apache-2.0
"""Compiles tiles in separate processes: one that dies or hangs costs only the tile that it was working on.

A process reads tasks and answers each with a line of JSON. It really calls the backend, on a small problem with the
same kernels as the large one, so that tiles that cannot be launched are found here too. Triton caches the kernels on
disk, where the measuring process finds them.
"""

import json
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import Lock, Thread, Timer
from typing import Any

from moe_lab.spec.guard.children import died

Task = dict[str, Any]
Done = Callable[[Task, str | None, float], None]


class Pool:
    """Processes that answer tasks.

    Attributes:
        left: tasks that were not begun when ``run`` returned.
    """

    def __init__(self, argv: Sequence[str], processes: int, patience_s: float, now: Callable[[], float] = time.time):
        """Set how to start them (``argv``), how many run at once, and how long a task may take."""
        self._argv, self._processes, self._patience_s, self._now = list(argv), processes, patience_s, now
        self._lock = Lock()
        self.left: deque[Task] = deque()

    def run(self, tasks: Iterable[Task], until: float, done: Done) -> None:
        """Let the processes do the tasks in order; ``until``: time in seconds after which no further one is begun.

        ``done`` is called with each task, why it failed (None if it did not), and the seconds it took.
        """
        self.left = deque(tasks)
        count = min(self._processes, len(self.left))
        threads = [Thread(target=self._serve, args=(until, done), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _serve(self, until: float, done: Done) -> None:
        process: subprocess.Popen[str] | None = None
        while self._now() < until:
            try:
                task = self.left.popleft()
            except IndexError:
                break
            began = time.monotonic()
            process = process or self._start()  # kept for many tasks: to import torch and Triton takes seconds
            error = self._ask(process, task)
            with self._lock:
                done(task, error, time.monotonic() - began)
            if process.poll() is not None:  # it died; the next task gets a new one
                process = None
        if process:
            _close(process)

    def _start(self) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        return subprocess.Popen(self._argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1)

    def _ask(self, process: "subprocess.Popen[str]", task: Task) -> str | None:
        assert process.stdin
        assert process.stdout
        hung: list[bool] = []

        def give_up() -> None:
            hung.append(True)
            process.kill()

        timer = Timer(self._patience_s, give_up)
        timer.start()
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            while line := process.stdout.readline():  # compilers print to stdout too
                if line.startswith('{"task":'):
                    return json.loads(line)["error"]  # type: ignore[no-any-return]
        except OSError:  # a broken pipe: it died, and its exit code below says how
            pass
        finally:
            timer.cancel()
        code = process.wait()
        return (
            f"the compiling process hung for {self._patience_s:g} s" if hung else f"the compiling process {died(code)}"
        )


def _close(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.close()  # ends its loop over stdin
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
