"""A step that is compiled once, its speed, its trace."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.runtime import hardware
from jaxdiff.training import profiling


def program(calls):
  def square(x):
    calls.append(1)  # while tracing
    return x @ x

  return profiling.Program(jax.jit(square))


def test_it_is_compiled_at_the_first_call_alone():
  calls = []
  step = program(calls)
  x, want = jnp.ones((8, 8)), np.ones((8, 8))
  for _ in range(3):
    x, want = step(x / 4.0), (want / 4.0) @ (want / 4.0)
  assert len(calls) == 1
  np.testing.assert_allclose(x, want, rtol=1e-5)
  assert step.flops() == 2 * 8**3


def test_a_loop_counts_as_often_as_it_runs():
  many = profiling.Program(
    jax.jit(lambda x: jax.lax.fori_loop(0, 5, lambda _, y: y @ y, x))
  )
  many(jnp.ones((8, 8)) / 8.0)
  assert many.flops() == 5 * 2 * 8**3


def test_speed_leaves_out_the_step_that_compiles(monkeypatch):
  now = iter([0.0, 4.0, 4.0])
  monkeypatch.setattr(profiling.time, 'monotonic', lambda: next(now))
  monkeypatch.setattr(hardware, 'peak', lambda: 2.0 * 256)
  step = program([])
  monkeypatch.setattr(step, 'flops', lambda: 1024.0)
  meter = profiling.Meter(step, slots=2, images=64, devices=4)
  for _ in range(3):
    meter.step()
  figures = meter.read()
  assert figures['s/step'] == 2.0 and figures['images/s'] == 32.0
  assert figures['utilisation'] == 0.5
  assert 0.05 < figures['GB'] < 100


def test_memory_in_use_is_this_process_s():
  before = hardware.memory_in_use()
  held = np.ones(2**25)  # 256 MB
  assert hardware.memory_in_use() - before > 0.2
  del held
  hardware.give_back_memory()
  assert hardware.memory_in_use() - before < 0.2


def test_a_trace_is_written_of_the_steps_asked_for(tmp_path, caplog):
  with profiling.tracer(tmp_path / 'none', 0) as after:
    for _ in range(5):
      after(jnp.ones(2))
  assert not (tmp_path / 'none').exists()
  with profiling.tracer(tmp_path / 'trace', 2) as after:
    for _ in range(6):
      after(jnp.ones(2) + 1.0)
  assert list((tmp_path / 'trace').rglob('*.xplane.pb'))
  # Training that ends, or stops, within the trace ends it too.
  with profiling.tracer(tmp_path / 'short', 50) as after:
    for _ in range(4):
      after(jnp.ones(2) + 1.0)
  assert list((tmp_path / 'short').rglob('*.xplane.pb'))
