"""One request over the wire: a deadline for all of it, an answer of bounded size, and no way to another host."""

import asyncio
import functools
import threading
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from openai import DefaultAsyncHttpxClient, OpenAIError

T = TypeVar("T")
MOST_BYTES = 1 << 20
"""Of an answer, unpacked. A verdict takes a few hundred."""
MOST_BYTES_OF_A_FILE = 200 << 20
"""Of a batch's file; OpenAI allows as much."""


class LostAnswerError(OpenAIError):
    """An answer began and did not arrive, or is too large, or never came: it may have been paid for."""


class BoundedClient(DefaultAsyncHttpxClient):
    """Reads each answer whole, up to a size, and follows no redirect: a key goes where the user sends it."""

    async def send(self, request: Any, **options: Any) -> Any:
        """Send a request; the response is read and unpacked. Raises LostAnswerError."""
        response = await super().send(request, **{**options, "stream": True, "follow_redirects": False})
        most = MOST_BYTES_OF_A_FILE if str(request.url).endswith("/content") else MOST_BYTES
        try:
            body = await _read(response, most)
        except Exception as error:
            if response.status_code < 300:
                raise LostAnswerError(f"the answer did not arrive whole ({error or type(error).__name__})") from error
            body = b""  # the status says enough
        finally:
            await response.aclose()
        framing = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in framing]
        return type(response)(response.status_code, headers=headers, content=body, request=request)


async def _read(response: Any, most: int) -> bytes:
    """The body, unpacked. Raises ValueError where it is larger than `most`, or packed in a way that is not known."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate", ""):
        raise ValueError(f"it is packed as {encoding}, which was not asked for")
    unpack = zlib.decompressobj(wbits=47) if encoding in ("gzip", "deflate") else None
    body = bytearray()
    async for piece in response.aiter_raw():
        body += unpack.decompress(piece, most + 1) if unpack else piece
        if len(body) > most:
            raise ValueError(f"it is larger than {most >> 20} MB")
    return bytes(body)


STARTING = threading.Lock()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all requests, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="judge").start()
    return loop


class Requests:
    """The requests under way, sent from any thread."""

    def __init__(self) -> None:
        self._under_way: set[Future[Any]] = set()
        with STARTING:
            self._loop = _loop()

    def within(self, seconds: float, send: Callable[[], Awaitable[T]]) -> T:
        """What a request gives. Raises LostAnswerError where it takes longer, however steadily it trickles in."""
        future = asyncio.run_coroutine_threadsafe(_within(seconds, send), self._loop)
        self._under_way.add(future)
        try:
            return future.result()
        finally:
            self._under_way.discard(future)

    def cancel(self) -> None:
        """Give up on all that are under way: they raise CancelledError."""
        for future in list(self._under_way):
            future.cancel()


async def _within(seconds: float, send: Callable[[], Awaitable[T]]) -> T:
    task = asyncio.ensure_future(send())
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()  # without waiting for it: closing a connection may take its time as well
    if not done:
        raise LostAnswerError(f"no answer within {seconds:g} s")
    return task.result()


def may_be_paid(error: BaseException) -> bool:
    """Whether a request that came to nothing may cost something all the same: no status refused it."""
    return isinstance(error, ValueError | LostAnswerError) or isinstance(error.__cause__, LostAnswerError)
