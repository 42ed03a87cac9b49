"""Who comes to a roll call; what follows from it is in test_multihost."""

import socket
import threading

import pytest

from jaxdiff.runtime import roll_call

TOKEN = b'0123456789abcdef'


def come(port: int, hello: bytes) -> socket.socket:
  connection = socket.create_connection(('localhost', port), 5)
  connection.sendall(hello)
  return connection


def pair() -> tuple[socket.socket, socket.socket]:
  """Both ends of a connection."""
  with socket.create_server(('localhost', 0)) as listener:
    there = socket.create_connection(listener.getsockname(), 5)
    return listener.accept()[0], there


def accepting(listener, processes):
  """What `_accept` returns or raises, in a thread."""
  out = []

  def run():
    try:
      out.append(roll_call._accept(listener, processes, TOKEN))
    except OSError as error:
      out.append(error)

  thread = threading.Thread(target=run)
  thread.start()
  return thread, out


def test_strangers_take_nobody_s_place(monkeypatch):
  monkeypatch.setattr(roll_call, '_CONNECT', 10.0)
  listener = socket.create_server(('localhost', 0))
  port = listener.getsockname()[1]
  thread, out = accepting(listener, 3)
  strangers = [
    come(port, b'GET / HTTP/1.1\r\n\r\n' + bytes(20)),
    come(port, TOKEN + (7).to_bytes(4, 'big')),  # no such process
    come(port, TOKEN + (0).to_bytes(4, 'big')),  # the first itself
  ]
  closed = come(port, TOKEN[:3])
  closed.close()
  own = [come(port, TOKEN + k.to_bytes(4, 'big')) for k in (2, 1)]
  thread.join(20)
  (found,) = out
  assert sorted(found) == [1, 2]
  for connection in (*strangers, *own, *found.values()):
    connection.close()


def test_who_came_is_not_ended_for_those_who_did_not(monkeypatch):
  monkeypatch.setattr(roll_call, '_CONNECT', 1.0)
  listener = socket.create_server(('localhost', 0))
  thread, out = accepting(listener, 3)
  own = come(listener.getsockname()[1], TOKEN + (1).to_bytes(4, 'big'))
  thread.join(20)
  assert isinstance(out[0], TimeoutError)
  own.settimeout(5)
  # This process ends by itself: it is not missed.
  assert own.recv(1) == roll_call._DONE
  own.close()


@pytest.mark.parametrize('said', [b'.', b'!'])
def test_what_is_said_before_the_end_is_heard(said, monkeypatch):
  ended = []
  monkeypatch.setattr(roll_call, '_end', ended.append)
  monkeypatch.setattr(roll_call, '_PARTING', 0.2)
  monkeypatch.setattr(roll_call, '_LINGER', 0.0)
  here, there = pair()
  call = roll_call.RollCall({1: here})
  there.sendall(said)
  there.close()
  assert call._alone.wait(5)
  threading.Event().wait(0.6)
  assert ended == ([] if said == b'.' else ['another process has failed'])
  here.close()


def test_an_end_without_a_word_ends_this_process(monkeypatch):
  ended, over = [], threading.Event()

  def end(why):
    ended.append(why)
    over.set()

  monkeypatch.setattr(roll_call, '_end', end)
  monkeypatch.setattr(roll_call, '_LINGER', 0.0)
  here, there = pair()
  roll_call.RollCall({3: here})
  there.close()
  assert over.wait(5)
  assert ended[0] == 'process 3 is gone'
  here.close()


def test_who_has_failed_waits_for_the_others_to_leave(monkeypatch):
  monkeypatch.setattr(roll_call, '_PARTING', 5.0)
  here, there = pair()
  first = roll_call.RollCall({1: here})
  second = roll_call.RollCall({0: there})
  first.leave(roll_call._FAILED)
  # The other has heard it, and is still at work.
  assert second._alone.wait(5)
  assert not first._alone.wait(0.5)
  second.leave(roll_call._DONE)
  assert first._alone.wait(5)
  for connection in (here, there):
    connection.close()
