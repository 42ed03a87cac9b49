"""Several processes of one run: start, agree, wait, gather.

On a pod slice or a cluster every host runs the same command. Devices of all of
them form one mesh (`runtime/mesh.py`); what is done once, tables and reports,
is left to the first process, and the others wait. With one process all of this
is nothing.

Waiting goes through the coordination service, not through the devices: a
collective would time out while the first process draws a report.
"""

from collections.abc import Iterator
import contextlib
import os
import sys
import threading
import time
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np
from orbax.checkpoint import multihost as orbax_multihost

from jaxdiff import inputs
from jaxdiff.runtime import preemption, roll_call

# A process says what it waits for after so long, and again.
SAY_SECONDS = 20.0
# Seconds a process that has failed waits for the others before it is gone.
_PARTING = 20
# The longest wait: the first process may score hundreds of models.
_PATIENCE_MS = 24 * 3600 * 1000


def start(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  timeout: int = 300,
) -> None:
  """Joins the other processes; before any other use of JAX.

  Args:
    coordinator: host:port of process 0; None asks the cluster (a TPU's
      metadata, SLURM, ...), as do the other two.
    num_processes: of the run.
    process_id: this one's, from 0.
    timeout: seconds to wait for the others.

  If they do not come in time, says so and ends the process with exit code 75:
  JAX would end it without a word that helps.

  Raises:
    InputError: if the cluster says nothing of itself.
  """
  where = coordinator or 'the coordinator that the cluster names'
  others = 'the others' if num_processes is None else f'all {num_processes}'

  def give_up() -> None:
    print(
      f'jaxdiff: {others} processes were not at {where} within {timeout} s: '
      'start the same command on every host (--wait_seconds gives them longer)',
      file=sys.stderr,
      flush=True,
    )
    os._exit(preemption.EXIT_CODE)

  patience = threading.Timer(timeout, give_up)
  patience.daemon = True
  patience.start()
  try:
    with waiting(f'{others} processes at {where}'):
      jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        initialization_timeout=2 * timeout + 60,
        shutdown_timeout_seconds=_PARTING,
      )
  except (RuntimeError, ValueError) as error:
    line = str(error).strip().splitlines()[0]
    asked = f'--coordinator={coordinator}' if coordinator else '--multihost'
    raise inputs.InputError(
      f'{asked}: {line} (every host runs the same command; give '
      '--coordinator, --num_processes and --process_id where the cluster does '
      'not)'
    ) from error
  finally:
    patience.cancel()
  if jax.process_count() > 1:
    roll_call.start(coordinator.rpartition(':')[0] if coordinator else None)


def is_first() -> bool:
  """Whether this process writes what is written once."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() == 1:
    return
  wait = orbax_multihost.get_barrier_sync_fn()
  try:
    with waiting(f'the other processes to end {name}'):
      wait(key=f'jaxdiff-{name}', timeout_ms=_PATIENCE_MS)
  except jax.errors.JaxRuntimeError as error:
    line = str(error).strip().splitlines()[0]
    raise preemption.Preempted(
      f'another process is gone ({line}); what is whole is saved: run the same '
      'command again, on all'
    ) from error


def agree(value: np.ndarray) -> np.ndarray:
  """The first process's value, on all; of one shape and dtype everywhere."""
  if jax.process_count() == 1:
    return value
  barrier('agree')
  return np.asarray(multihost_utils.broadcast_one_to_all(value))


def any_of(flag: bool) -> bool:
  """Whether it holds on some process."""
  if jax.process_count() == 1:
    return flag
  barrier('any')
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def fetch(tree: Any) -> Any:
  """Whole arrays on this host, wherever their parts are."""

  def fetch_leaf(leaf):
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
      return multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)

  return jax.tree.map(fetch_leaf, tree)


def share(number: int) -> slice:
  """Which of `number` pieces of work are this process's."""
  count, index = jax.process_count(), jax.process_index()
  return slice(number * index // count, number * (index + 1) // count)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
  """Says every SAY_SECONDS what it is that takes so long."""
  over, begun = threading.Event(), time.monotonic()

  def say() -> None:
    while not over.wait(SAY_SECONDS):
      logging.info('waiting for %s: %.0f s', what, time.monotonic() - begun)

  thread = threading.Thread(target=say, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()
