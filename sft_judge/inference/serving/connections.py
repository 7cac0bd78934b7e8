"""
A request's body, and work that ends when the client disconnects.
"""

import asyncio

from sft_judge.inference.serving.errors import CODES, HttpError

LINES = "application/x-ndjson"


async def body_of(request, *types: str) -> bytes:
    """Return the request's body if its content type is one of `types`. Raise `HttpError` 415 otherwise."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in types:
        raise HttpError(415, CODES[415], f"The content type is {given[:100]!r}, expected {types[0]}.")
    return await request.body()


async def while_connected(request, work):
    """Return the result of `work`; cancel it if the client disconnects."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HttpError(408, CODES[408], "The client has disconnected.")  # not read by anybody, but counted
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _hung_up(request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def stream(lines, seconds: int):
    """Stream lines as the response. It ends if the client disconnects, or accepts no data for so many seconds."""
    from fastapi.responses import StreamingResponse

    class Lines(StreamingResponse):
        async def stream_response(self, send):
            async def patient(message):
                async with asyncio.timeout(seconds):
                    await send(message)

            await super().stream_response(patient)

        async def __call__(self, scope, receive, send):
            try:
                await super().__call__(scope, receive, send)
            except* TimeoutError:
                pass
            finally:
                await lines.aclose()

    return Lines(lines, media_type=LINES)
