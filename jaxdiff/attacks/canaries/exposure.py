"""Canary exposure: how much a model's losses say about planted noise.

Carlini et al. (2023), section 7.3, after "The Secret Sharer" (Carlini et al.
2019). With R a pool of canaries that the model never saw:

(1)  rank(c) = 1 + #{r in R: loss(r) < loss(c)}
(2)  exposure(c) = log2(|R| + 1) - log2(rank(c))

bits; its maximum is log2(|R| + 1): 10 with the paper's pool, which is taken to
be 1,024. A canary that was never inserted has a uniform rank, which is tested.

Every number of copies has as many canaries, none at all among them, and what
chance gives stands beside each figure: of m canaries that were never inserted
the j-th smallest loss has a rank of which

(3)  rank - 1 ~ NegativeHypergeometric(m + |R|, |R|, j)

so that with 1,024 in the pool the largest exposure of four is 3.0 bits by
chance, and of 64 is 6.6.

From canaries that fair coins put in or left out follows a lower bound on
epsilon of the training as a whole (Steinke et al. 2023, "Privacy Auditing with
One (1) Training Run", in the tighter form of Mahloujifar et al. 2024, by f-DP;
jax_privacy's `CanaryScoreAuditor`). No audit of so many coins can report more
than the bound at perfect separation, which is given too.

Models of an audit of their own train on all examples of the run and on their
own canaries; each is a repetition.
"""

import dataclasses

from etils import epy
import numpy as np
import pandas as pd

from jaxdiff.attacks.canaries import insertion, paths
from jaxdiff.attacks.membership import measure
from jaxdiff.metrics import intervals
from jaxdiff.runs import files, layout
from jaxdiff.runtime import prng

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import stats

# Of the bound on epsilon: its confidence, and DP's delta.
_SIGNIFICANCE, DELTA = 1.0 - intervals.LEVEL, 1e-5
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class CanaryPlan:
  """All that the audit needs beside training; made by `plans`.

  Attributes:
    canaries: of all its models.
    signals: their losses, measured by each model on the canaries of all,
      [S x M] in a row.
    seed: of the resampling.
  """

  canaries: insertion.Canaries
  signals: measure.SignalPlan
  seed: int


def exposure(losses: np.ndarray, pool: np.ndarray) -> np.ndarray:
  """Equations (1) and (2).

  Args:
    losses: [M].
    pool: [R] losses of canaries that the model never saw.

  Returns:
    bits [M], 0 .. log2(R + 1).
  """
  rank = 1 + np.searchsorted(np.sort(pool), losses, side='left')
  return np.log2(len(pool) + 1) - np.log2(rank)


def table(plan: CanaryPlan, losses: np.ndarray) -> pd.DataFrame:
  """One row a canary outside the pool: model, canary, copies, coin, loss, ...

  Args:
    plan: whose canaries.
    losses: [S, M] of each model on its own.
  """
  made = plan.canaries
  rows = []
  for model, loss in enumerate(losses):
    rows.append(
      pd.DataFrame(
        {
          'model': model,
          'canary': np.arange(len(loss)),
          'copies': made.copies[model],
          'coin': made.coin.astype(int),
          'loss': loss,
          'exposure': exposure(loss, loss[made.pool]),
        }
      )[~made.pool]
    )
  return pd.concat(rows, ignore_index=True)


def chance(num_canaries: int, pool: int, which: str) -> float:
  """Mean exposure of canaries never inserted, equation (3).

  Args:
    num_canaries: m.
    pool: |R|.
    which: 'max' or 'median' of the m.
  """

  def of(place: int) -> float:
    below = np.arange(pool + 1)
    law = stats.nhypergeom.pmf(below, pool + num_canaries, pool, place)
    return float(law @ (np.log2(pool + 1) - np.log2(1 + below)))

  if which == 'max':
    return of(1)
  middle = {(num_canaries + 1) // 2, num_canaries // 2 + 1}
  return float(np.mean([of(place) for place in middle]))


def mean_exposure(values: np.ndarray, pool: int) -> tuple[float, float, float]:
  """Mean over models, with a 95 % interval (low, high).

  Student's over models, and no narrower than what a pool of that size can say
  of a rank (Clopper-Pearson): models that all reach the most that there is do
  not prove that exactly.

  Args:
    values: [S] of each model.
    pool: |R|.
  """
  most = np.log2(pool + 1)
  mean, low, high = intervals.student(values, 0.0, most)
  below = round(float(2.0 ** (most - mean))) - 1
  least, largest = intervals.binomial(min(max(below, 0), pool), pool)
  ends = [-np.log2(max(x, 1.0 / (pool + 1))) for x in (largest, least)]
  return (
    mean,
    float(max(np.nanmin([low, ends[0], mean]), 0.0)),
    float(min(np.nanmax([high, ends[1], mean]), most)),
  )


def _spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Spearman's correlation of rows [R, n]; NaN where one is constant."""
  ranks = [stats.rankdata(values, axis=1) for values in (first, second)]
  first, second = (x - x.mean(axis=1, keepdims=True) for x in ranks)
  spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
  covariance = (first * second).sum(axis=1)
  with np.errstate(invalid='ignore'):
    return covariance / spread


def correlation(rows: pd.DataFrame, seed: int) -> tuple[float, float, float]:
  """Spearman's, of copies and exposure; the interval resamples canaries."""
  copies, found = (rows[x].to_numpy() for x in ('copies', 'exposure'))
  if len(set(copies)) < 2 or len(set(found)) < 2:
    return np.nan, np.nan, np.nan  # of a constant there is none
  rng = prng.rng(seed, 'interval')
  drawn = np.stack(
    [rng.integers(0, len(rows), len(rows)) for _ in range(_RESAMPLES)]
  )
  (value,) = _spearman(copies[None], found[None])
  resampled = _spearman(copies[drawn], found[drawn])
  return (float(value), *intervals.percentile(resampled))


def epsilon_lower_bound(inserted: np.ndarray, left_out: np.ndarray) -> float:
  """Of one training run, at 95 % and delta 1e-5, from losses of coin canaries.

  Args:
    inserted: [m] losses of those trained on.
    left_out: [n] of the others.
  """
  # Brings dp-accounting along: only who audits canaries waits for it.
  from jax_privacy import auditing

  auditor = auditing.CanaryScoreAuditor(-inserted, -left_out)
  return float(auditor.epsilon_one_run_fdp(_SIGNIFICANCE, DELTA))


def uniformity(plan: CanaryPlan, losses: np.ndarray) -> float:
  """p-value of even ranks of canaries that were left out.

  Ranks in one pool are not independent, their evenness is that of two samples:
  a Kolmogorov-Smirnov test of canaries against the pool, Fisher's combination
  over models.
  """
  made = plan.canaries
  tests = [
    stats.ks_2samp(loss[~made.pool & (copies == 0)], loss[made.pool]).pvalue
    for loss, copies in zip(losses, made.copies, strict=True)
  ]
  return float(stats.combine_pvalues(np.maximum(tests, 1e-300)).pvalue)


def summarise(
  plan: CanaryPlan, losses: np.ndarray, rows: pd.DataFrame
) -> pd.DataFrame:
  """copies, metric, value, low, high, chance; copies -1: said of all together.

  Metrics: 'max_exposure' and 'median_exposure' of the `num_canaries` with so
  many copies (no coins), mean over models, with what `chance` would give;
  'spearman' of the same; 'uniformity_p' of canaries left out, coins too;
  'epsilon_lower_bound', the median over models; the smallest and largest of
  them ('..._smallest', '..._largest'), each a bound of its own model; and the
  largest that so many coins could ever give ('..._cap').

  Args:
    plan: whose canaries.
    losses: [S, M] of each model on its own.
    rows: of `table`.
  """
  pool = int(plan.canaries.pool.sum())
  out = []
  planted = rows[rows['coin'] == 0]
  for copies, of_count in planted.groupby('copies'):
    by_model = of_count.groupby('model')['exposure']
    count = int(by_model.size().iloc[0])
    for which, values in (
      ('max', by_model.max()),
      ('median', by_model.median()),
    ):
      out.append(
        (copies, f'{which}_exposure', *mean_exposure(values.to_numpy(), pool),
         chance(count, pool, which), count)
      )  # fmt: skip
  nothing = (np.nan, np.nan)
  count = len(planted) // len(losses)
  out.append((-1, 'spearman', *correlation(planted, plan.seed), 0.0, count))
  left_out = int((~plan.canaries.pool & (plan.canaries.copies[0] == 0)).sum())
  out.append(
    (-1, 'uniformity_p', uniformity(plan, losses), *nothing, np.nan, left_out)
  )
  tossed = rows[rows['coin'] == 1]
  coins = [
    tuple(
      of_model.loc[of_model['copies'] == x, 'loss'].to_numpy() for x in (1, 0)
    )
    for _, of_model in tossed.groupby('model')
  ]
  bounds = [epsilon_lower_bound(*sides) for sides in coins]
  # As if every canary that was put in had a smaller loss than all others.
  caps = [
    epsilon_lower_bound(np.zeros(len(inserted)), np.ones(len(others)))
    for inserted, others in coins
  ]
  for suffix, value in (
    ('', np.median(bounds)), ('_smallest', min(bounds)),
    ('_largest', max(bounds)), ('_cap', np.median(caps)),
  ):  # fmt: skip
    out.append(
      (-1, f'epsilon_lower_bound{suffix}', value, *nothing, 0.0,
       len(tossed) // len(losses))
    )  # fmt: skip
  names = ['copies', 'metric', 'value', 'low', 'high', 'chance', 'num_canaries']
  return pd.DataFrame(out, columns=names).assign(
    num_models=len(losses),
    pool=pool,
    t=plan.signals.queries['t'].iloc[0],
    draws=len(plan.signals.queries),
    delta=DELTA,
  )


def analyse(plan: CanaryPlan, run: layout.Run) -> None:
  """Reads stored losses; writes the tables of canaries and the summary."""
  count, size = plan.canaries.copies.shape
  stored, _ = measure.load(
    paths.Paths(run).planted, count, count * size, plan.signals.block_size
  )
  losses = stored.mean(axis=2, dtype=np.float64).reshape(count, count, size)
  of_itself = losses[np.arange(count), np.arange(count)]
  rows = table(plan, of_itself)
  files.write_csv(paths.Paths(run).canaries, rows)
  files.write_csv(paths.Paths(run).summary, summarise(plan, of_itself, rows))
