"""Ends a process when another process of the run is gone.

Processes wait for each other in collectives, which nothing interrupts: where
one was killed, JAX aborts the others after 100 seconds. Here each holds a
connection to the first. A process that is killed closes its own, and that of a
machine that is lost stops answering (TCP keepalive, 30 seconds); the first ends
then, and with it the others, with exit code 75: run the same command again.
What is whole on disk stays, as after a kill.

JAX aborts the others at once, with another code, where the first one's sockets
close. A child of the first holds these open for a moment longer; where it dies
with the first, in a container that this one began, the faster one wins.

A process that ends by itself says so before, and is not missed. If it failed,
the others have a while to fail as it did, for what is wrong with a config is
wrong everywhere; then they end, and it does.
"""

import atexit
from collections.abc import Iterator
import contextlib
import os
import secrets
import selectors
import socket
import stat
import subprocess
import sys
import threading
import time

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from jaxdiff.runtime import preemption

# What a process says before it ends.
_DONE, _FAILED = b'.', b'!'
# Seconds that the others have after one has failed; that a connection may
# take; and that the main thread waits for word of whom an error is about.
_PARTING, _CONNECT, _WORD = 10.0, 20.0, 45.0
# Seconds that the first process stays for the others to end before it.
_LINGER = 2.0
# And for which its sockets outlive it.
_OUTLIVE = 5
_HOLD = f'import sys, time; sys.stdin.read(); time.sleep({_OUTLIVE})'
# Of keepalive: seconds of silence, between questions, and how many of them.
_KEEPALIVE = (10, 5, 4)
# Bytes of an address, and letters of what tells processes of a run apart.
_ADDRESS, _TOKEN = 256, 32

_call: 'RollCall | None' = None
_holder: 'subprocess.Popen[bytes] | None' = None


class RollCall:
  """This process's connections: the first's to all, another's to the first."""

  def __init__(self, connections: dict[int, socket.socket]):
    """Watches them from now on.

    Args:
      connections: by number of process.
    """
    self._connections = connections
    self._selector = selectors.DefaultSelector()
    self._ended, self._alone = False, threading.Event()
    self._deadline = float('inf')
    for number, connection in connections.items():
      _keep_alive(connection)
      self._selector.register(connection, selectors.EVENT_READ, number)
    threading.Thread(target=self._watch, daemon=True).start()

  def _watch(self) -> None:
    while self._selector.get_map():
      left = max(0.0, self._deadline - time.monotonic())
      for key, _ in self._selector.select(min(left, 60.0)):
        self._hear(key)
      self._end_if_late()
    self._alone.set()
    while self._deadline < float('inf'):
      time.sleep(max(0.0, self._deadline - time.monotonic()))
      self._end_if_late()

  def _end_if_late(self) -> None:
    """Ends this process if another failed a while ago."""
    if time.monotonic() >= self._deadline:
      if not self._ended:
        self._end('another process has failed')
      self._deadline = float('inf')

  def _hear(self, key: selectors.SelectorKey) -> None:
    connection = self._connections[key.data]
    try:
      said = connection.recv(1)
    except OSError:  # no answer any more
      said = b''
    if not said and not self._ended:
      self._end(f'process {key.data} is gone')
    if said == _FAILED:
      self._deadline = time.monotonic() + _PARTING
    # It stays open: to the other, its end would be that of this process.
    self._selector.unregister(connection)

  def _end(self, why: str) -> None:
    """Ends this process; the first one after the others have heard of it.

    JAX aborts them where the first is gone.
    """
    for connection in self._connections.values():
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    if 0 not in self._connections:
      time.sleep(_LINGER)
    _end(why)

  def leave(self, said: bytes) -> None:
    """Says that this process ends by itself."""
    self._ended = True
    for connection in self._connections.values():
      with contextlib.suppress(OSError):  # it is gone already
        connection.sendall(said)

  def wait(self) -> None:
    """Until the others have left, too, or have had the time to."""
    self._alone.wait(_PARTING + 5.0)


def start(host: str | None) -> None:
  """Connects the processes of a run, once JAX knows them.

  Args:
    host: of the first process; None asks its own machine for an address.
  """
  global _call, _holder
  atexit.register(_leave)
  first = jax.process_index() == 0
  listener, address = None, ''
  if first:
    _holder = _held_open(_connections())
    listener = socket.create_server(('', 0), backlog=jax.process_count())
    address = f'{host or _own_address()}:{listener.getsockname()[1]}'
    address += f':{secrets.token_hex(_TOKEN // 2)}'
  sent = np.zeros(_ADDRESS, np.uint8)
  sent[: len(address)] = np.frombuffer(address.encode(), np.uint8)
  heard = np.asarray(multihost_utils.broadcast_one_to_all(sent))
  where, _, token = heard.tobytes().rstrip(b'\0').decode().rpartition(':')
  host, _, port = where.rpartition(':')
  try:
    if listener is not None:
      _call = RollCall(_accept(listener, jax.process_count(), token.encode()))
    else:
      connection = socket.create_connection((host, int(port)), _CONNECT)
      connection.settimeout(None)
      hello = token.encode() + jax.process_index().to_bytes(4, 'big')
      connection.sendall(hello)
      _call = RollCall({0: connection})
  except OSError as error:
    logging.warning(
      'roll call at %s:%s: %s; if a process is killed, JAX ends the others '
      'after 100 s',
      host, port, error,
    )  # fmt: skip


def _connections() -> list[int]:
  """Open TCP connections of this process, by their descriptors."""
  found = []
  for name in os.listdir('/proc/self/fd') if sys.platform == 'linux' else ():
    with contextlib.suppress(OSError):  # of the listing itself, closed by now
      if not stat.S_ISSOCK(os.stat(int(name)).st_mode):
        continue
      with socket.socket(fileno=os.dup(int(name))) as one:
        tcp = one.family in (socket.AF_INET, socket.AF_INET6)
        tcp = tcp and one.type == socket.SOCK_STREAM
        # Another start of this command would wait at a listener's queue.
        if tcp and not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
          found.append(int(name))
  return found


def _held_open(connections: list[int]) -> 'subprocess.Popen[bytes]':
  """A child that keeps connections open for a while after this process."""
  return subprocess.Popen(
    # Its input ends where this process does.
    [sys.executable, '-I', '-S', '-c', _HOLD],
    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL, pass_fds=connections, start_new_session=True,
  )  # fmt: skip


def _accept(
  listener: socket.socket, processes: int, token: bytes
) -> dict[int, socket.socket]:
  """The connections of all others.

  Raises:
    OSError: if some do not come; those that came are told not to miss this one.
  """
  found: dict[int, socket.socket] = {}
  deadline = time.monotonic() + _CONNECT
  try:
    with listener:
      while len(found) < processes - 1:
        listener.settimeout(max(0.01, deadline - time.monotonic()))
        connection, _ = listener.accept()
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        hello = connection.recv(len(token) + 4, socket.MSG_WAITALL)
        number = int.from_bytes(hello[len(token) :], 'big')
        known = len(hello) == len(token) + 4 and hello.startswith(token)
        if not known or number in found or not 0 < number < processes:
          connection.close()  # of somebody else
          continue
        connection.settimeout(None)
        found[number] = connection
  except OSError:
    for connection in found.values():
      with contextlib.suppress(OSError):
        connection.sendall(_DONE)
      connection.close()
    raise
  return found


def failed(code: int) -> None:
  """Ends this process, of several, with an error that it has printed.

  Not before the others, for JAX aborts them where the first is gone.
  """
  if _call is not None:
    _call.leave(_FAILED)
    _call.wait()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _leave() -> None:
  """As Python ends: well, or by an error that nobody caught."""
  if hasattr(sys, 'last_type'):
    failed(1)
  elif _call is not None:
    _call.leave(_DONE)
  if _holder is not None:
    _holder.kill()
    _holder.wait()


@contextlib.contextmanager
def whose_error() -> Iterator[None]:
  """Around work together: another's end shows as an error of a collective.

  The process ends here as `RollCall` ends it, if it is another's.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError:
    if _call is not None:
      time.sleep(_WORD)
    raise


def _keep_alive(connection: socket.socket) -> None:
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in zip(
    ('TCP_KEEPIDLE', 'TCP_KEEPINTVL', 'TCP_KEEPCNT'), _KEEPALIVE, strict=True
  ):
    if hasattr(socket, name):
      connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _own_address() -> str:
  """This machine's, as others see it; nothing is sent to find out."""
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    try:
      probe.connect(('192.0.2.1', 9))
      return probe.getsockname()[0]
    except OSError:
      return socket.gethostname()


def _end(why: str) -> None:
  """Without Python's own end, which waits for threads and collectives."""
  line = (
    f'jaxdiff: {why}; what is whole is saved: run the same command again, on '
    'all\n'
  )
  os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())
  os._exit(preemption.EXIT_CODE)
