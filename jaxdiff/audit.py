"""The stages in order, each skipped when its outputs stand."""

from collections.abc import Callable, Sequence
import datetime
import importlib.metadata
import platform
import time

from absl import logging
import jax

from jaxdiff import build, runs, sampling
from jaxdiff.attacks import extraction, membership, signals
from jaxdiff.report import page
from jaxdiff.training import loop


def train(plans: build.Plans, run: runs.Run) -> None:
  """Train every model of the run."""
  loop.fit(plans.train, run)


def sample(plans: build.Plans, run: runs.Run) -> None:
  """Generate images from every model."""
  sampling.generate(plans.sample, run)


def attack(plans: build.Plans, run: runs.Run) -> None:
  """Measure signals and neighbours; score membership and extraction."""
  signals.measure(plans.signals, run)
  stored, queries = signals.load(
    run,
    plans.signals.num_models,
    len(plans.dataset),
    plans.signals.block_size,
  )
  membership.analyse(plans.membership, stored, queries, run)
  extraction.find_neighbours(plans.extraction, run)
  extraction.analyse(plans.extraction, run)


def report(plans: build.Plans, run: runs.Run) -> None:
  """Write report.html from the tables."""
  page.write(plans.name, plans.dataset.images, plans.sample.block_size, run)


STAGES: dict[str, Callable[[build.Plans, runs.Run], None]] = {
  'train': train,
  'sample': sample,
  'attack': attack,
  'report': report,
}


def run_stages(
  config, workdir: str, stages: Sequence[str] = tuple(STAGES)
) -> runs.Run:
  """Runs stages of one config in one folder.

  Args:
    config: ConfigDict of the run.
    workdir: its folder.
    stages: names of STAGES, in order.

  Returns:
    The run.

  Raises:
    InputError: before any long work, if the config or folder is wrong.
  """
  plans = build.make(config)
  run = runs.open_run(workdir, config.to_dict())
  runs.write_csv(run.examples, plans.examples())
  if not run.provenance.exists():
    runs.write_json(run.provenance, provenance(plans))
  for name in stages:
    start = time.monotonic()
    STAGES[name](plans, run)
    logging.info('%s: done in %.0f s', name, time.monotonic() - start)
  return run


def provenance(plans: build.Plans) -> dict[str, object]:
  """Versions, hardware and data of this run."""
  packages = ('jaxdiff', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scipy')
  return {
    'started': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
    'python': platform.python_version(),
    'versions': {name: importlib.metadata.version(name) for name in packages},
    'devices': [str(device) for device in jax.devices()],
    'data_sha256': plans.dataset.fingerprint(),
  }
