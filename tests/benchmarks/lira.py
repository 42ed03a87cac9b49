"""LiRA for all targets against a vectorised NumPy leave-one-out.

    JAXDIFF_EXTRAS=bench launch/local.sh python -m tests.benchmarks.lira

Signals are generated: 16 models, 50,000 examples, 40 queries (and 256 models,
one query, without a peer, for its peak memory). The peer does what a user
would write: for each target, masked means and standard deviations over the
other models, in float32. `exact`: one query within 1e-5 of float64.
Runs alternate; medians of --repeats. One JSON line a case.
"""

import argparse
import json
import resource

import numpy as np

from jaxdiff.attacks.membership import lira
from jaxdiff.data import splits
from tests.benchmarks import timing


def make(num_models: int, count: int, columns: int):
  rng = np.random.default_rng(0)
  keep = splits.keep_matrix(0, range(num_models), np.arange(count))
  signals = rng.normal(1.0, 1e-3, (num_models, count, columns))
  signals -= 1e-3 * keep[..., None]
  return signals.astype(np.float32), keep, splits.left_out_together(num_models)


def numpy_lira(signals, keep, left_out):
  """Leave-out LiRA, pooled variance, one target at a time."""
  scores = np.empty_like(signals)
  for k in range(len(signals)):
    shadows = left_out != left_out[k]
    own = signals[k]
    values = signals[shadows]
    for side, sign in ((True, 1.0), (False, -1.0)):
      weight = (keep[shadows] == side)[..., None].astype(signals.dtype)
      count = weight.sum(axis=0)
      mean = (weight * values).sum(axis=0) / count
      scatter = (weight * (values - mean) ** 2).sum(axis=0)
      var = scatter.sum(axis=0) / (count - 1.0).sum(axis=0)
      term = -0.5 * ((own - mean) ** 2 / var + np.log(var))
      scores[k] = term if side else scores[k] + sign * term
  return scores


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=7)
  args = parser.parse_args()
  case = make(16, 50_000, 40)
  # Columns are independent: one of them in float64 says what is exact.
  ours = lira.lira(*case)[..., :1]
  truth = numpy_lira(case[0][..., :1].astype(np.float64), *case[1:])
  error = (np.abs(ours - truth) / np.maximum(1.0, np.abs(truth))).max()
  seconds = timing.medians(
    args.repeats,
    ours=lambda: lira.lira(*case),
    peer=lambda: numpy_lira(*case),
  )
  timing.emit(
    'lira K=16 N=50000 Q=40',
    seconds['ours'],
    'numpy',
    seconds['peer'],
    exact=bool(error < 1e-5),
    relative_error=float(f'{error:.2g}'),
  )


def memory() -> None:
  case = make(256, 50_000, 1)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  seconds = timing.timed(lambda: lira.lira(*case))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  line = {
    'name': 'lira K=256 N=50000 Q=1', 'ours_s': round(seconds, 3),
    'peak_gb': round(peak / 2**20, 2), 'above_data_gb': round(
      (peak - before) / 2**20, 2),
  }  # fmt: skip
  print(json.dumps(line), flush=True)


if __name__ == '__main__':
  memory()  # first: the peak is the process's own
  main()
