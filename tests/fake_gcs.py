"""Google Cloud Storage in memory, for whom writes a run to gs://.

Objects without folders: a rename copies and deletes, nothing can be appended,
and what is listed as a folder is a common beginning of names. Two doors lead to
one store: fsspec, through which `epath` goes, and the JSON interface over HTTP,
through which tensorstore writes Orbax's arrays.
"""

import contextlib
import http.server
import io
import itertools
import json
import threading
from typing import Any
from unittest import mock
import urllib.parse

import fsspec

# Names (bucket/object) -> (generation, bytes).
STORE: dict[str, tuple[int, bytes]] = {}
_generation = itertools.count(1)
_lock = threading.Lock()


class FileSystem(fsspec.AbstractFileSystem):
  """As gcsfs shows it."""

  protocol = ('gs', 'gcs')
  cachable = False

  def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
    path = self._strip_protocol(path)
    if path in STORE:
      size = len(STORE[path][1])
      return {'name': path, 'size': size, 'type': 'file', 'mtime': 0}
    if any(name.startswith(path + '/') for name in list(STORE)):
      return {'name': path, 'size': 0, 'type': 'directory', 'mtime': 0}
    raise FileNotFoundError(path)

  def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list:
    path = self._strip_protocol(path)
    if self.info(path)['type'] == 'file':
      names = {path}
    else:
      start = len(path) + 1
      names = {
        name[:start] + name[start:].split('/')[0]
        for name in list(STORE)
        if name.startswith(path + '/')
      }
    found = [self.info(name) for name in sorted(names)]
    return found if detail else [one['name'] for one in found]

  def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any):
    """There are no folders."""

  def makedirs(self, path: str, exist_ok: bool = False):
    """There are no folders."""

  def rmdir(self, path: str) -> None:
    """There are no folders."""

  def rm_file(self, path: str) -> None:
    try:
      del STORE[self._strip_protocol(path)]
    except KeyError:
      raise FileNotFoundError(path) from None

  def rm(self, path: str, recursive: bool = False, maxdepth=None) -> None:
    path = self._strip_protocol(path)
    if not recursive:
      self.rm_file(path)
    for name in [one for one in STORE if one.startswith(path + '/')]:
      del STORE[name]

  def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
    put(self._strip_protocol(path2), STORE[self._strip_protocol(path1)][1])

  def _open(self, path: str, mode: str = 'rb', **kwargs: Any) -> io.BytesIO:
    path = self._strip_protocol(path)
    if mode == 'wb':
      return _Upload(path)
    if mode != 'rb':
      raise ValueError(f'objects cannot be opened with mode {mode}')
    if path not in STORE:
      raise FileNotFoundError(path)
    return io.BytesIO(STORE[path][1])


class _Upload(io.BytesIO):
  """An object that is there, whole, when it is closed."""

  def __init__(self, path: str):
    super().__init__()
    self._path = path

  def close(self) -> None:
    if not self.closed:
      put(self._path, self.getvalue())
    super().close()


def put(name: str, data: bytes) -> int:
  """Writes an object; returns its generation."""
  with _lock:
    generation = next(_generation)
    STORE[name] = (generation, data)
  return generation


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_message(self, *args: Any) -> None:
    pass

  def _answer(self, code: int, body: bytes = b'', **headers: Any) -> None:
    self.send_response(code)
    self.send_header('Content-Length', str(len(body)))
    for name, value in headers.items():
      self.send_header(name.replace('_', '-'), str(value))
    self.end_headers()
    self.wfile.write(body)

  def _asked(self) -> tuple[str, dict[str, str]]:
    """Bucket and object, and what follows the question mark."""
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query))
    bucket, _, name = url.path.split('/b/', 1)[1].partition('/o')
    name = query.get('name') or urllib.parse.unquote(name[1:])
    return f'{bucket}/{name}', query

  def _refused(self, name: str, query: dict[str, str]) -> bool:
    """Whether the object is of another generation than the asker thinks."""
    now = STORE.get(name, (0, b''))[0]
    want, other = (
      query.get(key) for key in ('ifGenerationMatch', 'ifGenerationNotMatch')
    )
    return (want is not None and int(want) != now) or (
      other is not None and int(other) == now
    )

  def do_GET(self) -> None:
    name, query = self._asked()
    if 'prefix' in query or name.endswith('/'):
      return self._list(name, query)
    if name not in STORE:
      return self._answer(404)
    generation, data = STORE[name]
    if self._refused(name, query):
      return self._answer(304 if 'ifGenerationNotMatch' in query else 412)
    code, headers = 200, {'x_goog_generation': generation}
    span = self.headers.get('Range')
    if span:
      first, _, last = span.removeprefix('bytes=').partition('-')
      total = len(data)
      if first:
        low, high = int(first), int(last) if last else total - 1
      else:
        low, high = total - int(last), total - 1
      data = data[low : high + 1]
      code = 206
      headers['Content_Range'] = f'bytes {low}-{low + len(data) - 1}/{total}'
    return self._answer(code, data, **headers)

  def _list(self, name: str, query: dict[str, str]) -> None:
    bucket = name.split('/')[0]
    prefix = f'{bucket}/{query.get("prefix", "")}'
    items = [
      {'name': one[len(bucket) + 1 :], 'size': str(len(STORE[one][1]))}
      for one in sorted(STORE)
      if one.startswith(prefix)
    ]
    self._answer(200, json.dumps({'items': items}).encode())

  def do_POST(self) -> None:
    name, query = self._asked()
    data = self.rfile.read(int(self.headers.get('Content-Length', 0)))
    if self._refused(name, query):
      return self._answer(412)
    body = {'name': name.split('/', 1)[1], 'generation': str(put(name, data))}
    return self._answer(200, json.dumps(body).encode())

  def do_DELETE(self) -> None:
    name, query = self._asked()
    if self._refused(name, query):
      return self._answer(412)
    return self._answer(204 if STORE.pop(name, None) else 404)


@contextlib.contextmanager
def serve():
  """Yields environment variables that lead tensorstore here."""
  fsspec.register_implementation('gs', FileSystem, clobber=True)
  fsspec.register_implementation('gcs', FileSystem, clobber=True)
  server = http.server.ThreadingHTTPServer(('localhost', 0), _Handler)
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  # Orbax asks Google's own client whether the bucket knows folders.
  plain = mock.patch(
    'orbax.checkpoint._src.path.gcs_utils.get_bucket', lambda name: object()
  )
  try:
    with plain:
      yield {
        'EPATH_USE_TF': 'false',
        'TENSORSTORE_GCS_HTTP_URL': f'http://localhost:{server.server_port}',
        'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'none',
      }
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
    STORE.clear()
