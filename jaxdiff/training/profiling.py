"""A training step that is compiled once, and how fast it runs."""

from collections.abc import Iterator
import contextlib
import time
from typing import Any

from absl import logging
from etils import epath
import jax

from jaxdiff.runtime import hardware, work

# Steps before a trace: the first compiles, the second may still warm up.
_BEFORE_TRACE = 2


class Program:
  """A jitted function of arguments of one shape, compiled at the first call.

  jit would do as well, but keeps in memory what the compiler has freed, and
  does not say how many operations it does; XLA counts the body of a loop once.
  """

  def __init__(self, jitted: jax.stages.Wrapped):
    self._compiled: jax.stages.Compiled | None = None
    self._flops = 0.0
    self.lower, self.trace = jitted.lower, jitted.trace

  def __call__(self, *args: Any) -> Any:
    if self._compiled is None:
      begun = time.monotonic()
      traced = self.trace(*args)
      self._compiled = traced.lower().compile()
      self._flops = work.of_traced(traced, jax.default_backend())
      hardware.give_back_memory()
      logging.info('train: compiled in %.0f s', time.monotonic() - begun)
    return self._compiled(*args)

  def flops(self) -> float:
    """Operations of the products of a call, over all its devices."""
    return self._flops


class Meter:
  """Speed since the last reading."""

  def __init__(self, program: Program, slots: int, images: int, devices: int):
    """Counts from the second step on: the first compiles.

    Args:
      program: called `slots` times a step.
      slots: models that a device trains in turn.
      images: of a step, over all models.
      devices: that share a call.
    """
    self._program, self._images = program, images
    self._calls = slots / devices
    self._steps, self._since = -1, 0.0

  def step(self) -> None:
    """Counts one step as given to the devices."""
    if self._steps < 0:
      self._since = time.monotonic()
    self._steps += 1

  def read(self) -> dict[str, float]:
    """Figures by name, once the devices have ended the steps counted."""
    seconds = time.monotonic() - self._since
    figures = {}
    if self._steps > 0:
      figures['images/s'] = self._images * self._steps / seconds
      figures['s/step'] = seconds / self._steps
      peak = hardware.peak()
      flops = self._program.flops()
      if peak and flops:
        figures['utilisation'] = (
          flops * self._calls / (figures['s/step'] * peak)
        )
    memory = hardware.memory_in_use()
    if memory is not None:
      figures['GB'] = memory
    self._since, self._steps = time.monotonic(), 0
    return figures


@contextlib.contextmanager
def tracer(folder: epath.Path, steps: int) -> Iterator[Any]:
  """Yields a function to call after every step with what it gave.

  Args:
    folder: of the trace, for TensorBoard's profile plugin or Perfetto.
    steps: how many are traced, after the first few; 0: none.
  """
  if steps and '://' in str(folder):
    logging.warning('train.profile_steps: traces are written to local folders')
    steps = 0
  count = 0

  def after(outputs: Any) -> None:
    nonlocal count
    count += 1
    if not steps or not 0 <= count - _BEFORE_TRACE <= steps:
      return
    jax.block_until_ready(outputs)
    if count == _BEFORE_TRACE:
      jax.profiler.start_trace(str(folder))
    elif count == _BEFORE_TRACE + steps:
      jax.profiler.stop_trace()
      logging.info('train: %d steps traced in %s', steps, folder)

  try:
    yield after
  finally:
    if steps and _BEFORE_TRACE <= count < _BEFORE_TRACE + steps:
      jax.profiler.stop_trace()
