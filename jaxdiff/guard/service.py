"""A small HTTP service around an index (ASGI, by Starlette).

    POST /check    an image file as the body -> JSON of `Verdict`
    GET  /health   {"status": "ok", "images": ...}
    GET  /metrics  for Prometheus

Requests are answered by as many threads as there are cores; others wait. A body
larger than an image is refused as it comes in.
"""

import dataclasses
import os
import time

import anyio
from anyio import to_thread
import prometheus_client
from starlette import applications, requests, responses, routing

from jaxdiff import inputs
from jaxdiff.guard import index as index_lib


def make(index: index_lib.Index) -> applications.Starlette:
  """The application that answers for an index."""
  registry = prometheus_client.CollectorRegistry()
  checked = prometheus_client.Counter(
    'jaxdiff_guard_images', 'images by what came of them', ['verdict'],
    registry=registry,
  )  # fmt: skip
  seconds = prometheus_client.Histogram(
    'jaxdiff_guard_seconds', 'seconds that an image took, waiting included',
    registry=registry,
  )  # fmt: skip
  threads = anyio.CapacityLimiter(os.cpu_count() or 1)
  too_large = responses.JSONResponse(
    {'error': f'more than {index_lib.MOST_BYTES} bytes'}, 413
  )

  async def check(request: requests.Request) -> responses.Response:
    start = time.monotonic()
    length = request.headers.get('content-length', '0')
    if length.isdigit() and int(length) > index_lib.MOST_BYTES:
      checked.labels('refused').inc()
      return too_large
    body = bytearray()
    async for piece in request.stream():
      body += piece
      if len(body) > index_lib.MOST_BYTES:
        checked.labels('refused').inc()
        return too_large
    try:
      verdict = await to_thread.run_sync(
        index.check, bytes(body), limiter=threads
      )
    except ValueError as error:
      checked.labels('refused').inc()
      return responses.JSONResponse({'error': inputs.one_line(error)}, 400)
    seconds.observe(time.monotonic() - start)
    checked.labels('too_close' if verdict.too_close else 'clear').inc()
    return responses.JSONResponse(dataclasses.asdict(verdict))

  async def health(request: requests.Request) -> responses.Response:
    del request
    return responses.JSONResponse({'status': 'ok', 'images': len(index)})

  async def metrics(request: requests.Request) -> responses.Response:
    del request
    return responses.Response(
      prometheus_client.generate_latest(registry),
      media_type=prometheus_client.CONTENT_TYPE_LATEST,
    )

  return applications.Starlette(
    routes=[
      routing.Route('/check', check, methods=['POST']),
      routing.Route('/health', health),
      routing.Route('/metrics', metrics),
    ]
  )
