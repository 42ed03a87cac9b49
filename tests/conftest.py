"""Strict settings for every test: 4 CPU devices, no silent broadcasting."""

import atexit
import os
import shutil
import tempfile

# Here and in the processes that tests start; before JAX, which reads them once.
# Programs that this session has compiled are not compiled again.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _cache = tempfile.mkdtemp(prefix='jaxdiff-tests-')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _cache
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
  atexit.register(shutil.rmtree, _cache, ignore_errors=True)

# Two workers share the cores: threads of small matrices and trees would wait
# for each other, spinning, for longer than they compute.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

# Small programs run once or twice here: compile time is what costs, and XLA's
# older code for fused operations takes half of it.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
if '--xla_cpu_use_fusion_emitters' not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = ' '.join(
    (
      os.environ.get('XLA_FLAGS', ''),
      '--xla_cpu_use_fusion_emitters=false',
      '--xla_cpu_parallel_codegen_split_count=1',
    )
  )

# The TPU's compiler is there for tests of its own alone.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

from jaxdiff.runtime import mesh, startup

mesh.use_cpu_devices(4)

# JAX's traces are no garbage; looking for some took a tenth of the time.
startup.collect_less()


def pytest_collection_modifyitems(items):
  """Long modules first: whoever is left at the end has little to do."""
  items.sort(key=lambda item: item.get_closest_marker('slow') is None)


jax.config.update('jax_numpy_rank_promotion', 'raise')
