# cython: nonecheck=True
"""Drive a conversation: a generator that yields what it waits for.

The relay resumes it synchronously when that has arrived: no task, no trip
round the event loop (psycopg 3 does its dialogues the same way). Only a
coroutine that a talk yields runs on the loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from bouncer import log
from bouncer.errors import Disconnect, LoginFailed


class Want:
    """A constant that a talk yields."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


READ = Want("READ")  # the next message: (code, body)
READ_BYTE = Want("READ_BYTE")  # one raw byte: int


class StartTls:
    """Turn the stream into TLS; the talk goes on after the handshake."""

    def __init__(
        self, context: Any, server_side: bool, server_hostname: str | None
    ) -> None:
        self.context = context
        self.server_side = server_side
        self.server_hostname = server_hostname


class Waiter:
    """One result that somebody will deliver, to at most one talk."""

    def __init__(self, when_given_up: Callable[[], None] | None = None) -> None:
        self.ready = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.talk: Talk | None = None
        self.when_given_up = when_given_up

    def set(self, value: Any = None) -> None:
        """Deliver *value*; the talk goes on at once."""
        if self.ready:
            return
        self.ready = True
        self.value = value
        if self.talk is not None:
            self.talk.resume_from(self)

    def fail(self, error: BaseException) -> None:
        """Raise *error* in the talk."""
        if self.ready:
            return
        self.ready = True
        self.error = error
        if self.talk is not None:
            self.talk.resume_from(self)


class Talk:
    """One running conversation of one stream."""

    def __init__(self, stream: Any, generator: Generator[Any, Any, Any]) -> None:
        self.stream = stream
        self.generator: Generator[Any, Any, Any] | None = generator
        self.waiting: Any = None
        self.task: Any = None

    def step(self, value: Any, error: BaseException | None = None) -> None:
        """Go on with *value* (or *error*) until the talk waits again or ends."""
        self.waiting = None
        generator = self.generator
        if generator is None:
            return
        try:
            while True:
                if error is None:
                    want = generator.send(value)
                else:
                    raised, error = error, None
                    want = generator.throw(raised)
                if want is READ or want is READ_BYTE:
                    self.waiting = want
                    return
                if isinstance(want, Waiter):
                    if not want.ready:
                        want.talk = self
                        self.waiting = want
                        return
                    value, error = want.value, want.error
                elif isinstance(want, StartTls):
                    self.waiting = want
                    self.stream.start_tls(
                        want.context, want.server_side, want.server_hostname
                    )
                    return
                else:
                    self.waiting = want
                    self.run_on_loop(want)
                    return
        except StopIteration as stop:
            self.generator = None
            self.stream.talk_over(stop.value)
        except (Disconnect, LoginFailed) as reason:
            self.generator = None
            self.stream.talk_failed(reason)
        except GeneratorExit:
            self.generator = None
        except Exception as problem:
            self.generator = None
            self.stream.talk_crashed(problem)

    def run_on_loop(self, awaitable: Awaitable[Any]) -> None:
        """Let the event loop run *awaitable*, then go on with what it gives."""

        async def run() -> None:
            value, error = None, None
            try:
                value = await awaitable
            except Exception as problem:
                error = problem
            if self.generator is not None:
                self.task = None
                self.stream.tick()
                self.step(value, error)
                self.stream.after_step()

        self.task = self.stream.loop.create_task(run())

    def resume_from(self, waiter: Waiter) -> None:
        if self.waiting is waiter:
            self.step(waiter.value, waiter.error)
            self.stream.after_step()

    def cancel(self) -> None:
        """The stream is gone: end the generator and what it waits for."""
        generator, self.generator = self.generator, None
        waiting, self.waiting = self.waiting, None
        if isinstance(waiting, Waiter):
            waiting.talk = None
            if waiting.when_given_up is not None and not waiting.ready:
                waiting.when_given_up()
        if self.task is not None:
            self.task.cancel()
            self.task = None
            if (
                inspect.iscoroutine(waiting)
                and inspect.getcoroutinestate(waiting) == inspect.CORO_CREATED
            ):
                waiting.close()  # the task has not come to it, and never will
        if generator is not None:
            try:
                generator.close()
            except ValueError:
                pass  # it is running: it closed its own stream and ends by itself
            except Exception as problem:
                log.error(f"talk did not end cleanly: {problem!r}")
