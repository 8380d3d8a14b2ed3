"""Compiles tiles in processes of their own: one that dies or hangs costs the tile that it was at, nothing else.

A process reads tasks and answers each with a line of JSON. It really calls the backend, on a small problem whose
kernels are those of the large one, so that what cannot be launched is found here too; Triton keeps the kernels on disk,
where the measuring process finds them.
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
        left: tasks that nobody has answered when ``run`` returns.
    """

    def __init__(self, argv: Sequence[str], processes: int, patience_s: float, now: Callable[[], float] = time.time):
        """Say how to start them (``argv``), how many at once, and how long a task may take."""
        self._argv, self._processes, self._patience_s, self._now = list(argv), processes, patience_s, now
        self._lock = Lock()
        self.left: deque[Task] = deque()

    def run(self, tasks: Iterable[Task], until: float, done: Done) -> None:
        """Let the processes do the tasks in their order; ``until``: when no further one is begun, in seconds.

        ``done`` is told each task, why it failed (None: it did not), and the seconds it took.
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
            process = process or self._start()
            error = self._ask(process, task)
            with self._lock:
                done(task, error, time.monotonic() - began)
            if process.poll() is not None:
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
            while line := process.stdout.readline():  # compilers print there too
                if line.startswith('{"task":'):
                    return json.loads(line)["error"]  # type: ignore[no-any-return]
        except OSError:
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
    process.stdin.close()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
