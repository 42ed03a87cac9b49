"""How often the printed intervals of AUC and TPR hold the truth.

    launch/local.sh python -m tests.benchmarks.coverage

Audits are simulated whose truth is known: example i of model k scores

    z = sqrt(rho) a_i + sqrt(1 - rho) e_ki,  and  d_k + s z  for a member,

with a, e standard normal (or of Student's law, made from them by quantiles),
the training sets drawn in pairs, and d_k normal about d from model to model.
One JSON line a setting: the share of intervals that hold the truth, of
`low, high` (these models, new examples) and of `low_models, high_models` (new
models, too); NaN where a rate is refused. The last line has the least of each.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import functools
import json

import numpy as np
from scipy import special, stats

from jaxdiff.data import splits
from jaxdiff.metrics import bootstrap, roc


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is simulated.

  Attributes:
    models: K, an even number.
    examples: N.
    effect: d.
    rho: share of a score's variance that all models have in common.
    between: sd of d_k, as a share of d.
    spread: s.
    freedom: of Student's law; 0 is the normal one.
  """

  models: int
  examples: int
  effect: float
  rho: float = 0.3
  between: float = 0.0
  spread: float = 1.0
  freedom: int = 0

  @property
  def law(self):
    return stats.t(self.freedom) if self.freedom else stats.norm

  def truth(self, effects: np.ndarray, fprs) -> dict[str, float]:
    """Statistics of infinitely many examples of models of these effects."""
    # SciPy's bare functions: its laws check every one of millions of numbers.
    cdf, ppf = special.ndtr, special.ndtri
    if self.freedom:
      cdf = functools.partial(special.stdtr, self.freedom)
      ppf = functools.partial(special.stdtrit, self.freedom)
    z = ppf((np.arange(20_000) + 0.5) / 20_000)
    effects = effects[:, None]
    found = {'auc': cdf(effects + self.spread * z).mean()}
    for x in fprs:
      cut = -ppf(x)
      found[f'tpr@fpr={x:g}'] = cdf((effects - cut) / self.spread).mean()
    return {name: float(value) for name, value in found.items()}

  def audit(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores [K, N], keep [K, N] and effects [K] of one simulated audit."""
    shape = self.models, self.examples
    keep = splits.keep_matrix(
      seed, range(self.models), np.arange(self.examples)
    )
    rng = np.random.default_rng(seed)
    z = np.sqrt(self.rho) * rng.standard_normal(self.examples)
    z = z + np.sqrt(1.0 - self.rho) * rng.standard_normal(shape)
    if self.freedom:
      z = self.law.ppf(stats.norm.cdf(z))
    effects = self.effect * (
      1.0 + self.between * rng.standard_normal(self.models)
    )
    return np.where(keep, effects[:, None] + self.spread * z, z), keep, effects


def covered(
  setting: Setting, seed: int, num_resamples: int, fprs=roc.FPRS
) -> dict[str, tuple[float, float]]:
  """Whether one audit's two intervals hold their truths; NaN if refused."""
  scores, keep, effects = setting.audit(seed)
  cluster = np.broadcast_to(np.arange(setting.examples), keep.shape)
  left_out = splits.left_out_together(setting.models)
  found = bootstrap.of_roc(
    scores,
    keep,
    cluster,
    np.broadcast_to(left_out[:, None], keep.shape),
    num_resamples=num_resamples,
    seed=seed,
    fprs=fprs,
  )
  quantiles = stats.norm.ppf((np.arange(200) + 0.5) / 200)
  new = setting.effect * (1.0 + setting.between * quantiles)
  truths = (setting.truth(effects, fprs), setting.truth(new, fprs))
  return {
    name: tuple(
      np.nan if np.isnan(low) else float(low <= truth[name] <= high)
      for truth, (low, high) in zip(
        truths, (found[name][1:3], found[name][3:]), strict=True
      )
    )
    for name in found
  }


def coverage(
  setting: Setting, repeats: int, num_resamples: int, fprs=roc.FPRS
) -> dict[str, list[float]]:
  """Shares of audits of either interval that hold the truth, by statistic."""
  rows = [
    covered(setting, seed, num_resamples, fprs) for seed in range(repeats)
  ]
  return {
    name: np.mean([row[name] for row in rows], axis=0).tolist()
    for name in rows[0]
  }


def settings() -> Iterator[Setting]:
  """The regimes that docs/statistics.md speaks of."""
  for effect in (0.3, 1.5, 3.5):
    yield Setting(8, 256, effect)
    yield Setting(2, 256, effect)
    yield Setting(6, 64, effect)
    yield Setting(16, 1000, effect, rho=0.5)
    yield Setting(8, 256, effect, rho=0.7, spread=2.0)
    yield Setting(8, 256, effect, freedom=4)
    yield Setting(8, 1000, effect, between=0.2)
    yield Setting(16, 1000, effect, between=0.5)
  yield Setting(4, 4000, 2.0, between=0.2)
  yield Setting(1, 2000, 2.0)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=200)
  parser.add_argument('--num_resamples', type=int, default=300)
  args = parser.parse_args()
  least = [1.0, 1.0]
  for setting in settings():
    found = coverage(setting, args.repeats, args.num_resamples)
    line = {'setting': dataclasses.asdict(setting), 'repeats': args.repeats}
    print(json.dumps({**line, 'coverage': found}), flush=True)
    least = np.fmin(least, np.fmin.reduce(list(found.values()))).tolist()
  print(
    json.dumps({'least_of_these_models': least[0], 'least_of_new': least[1]})
  )


if __name__ == '__main__':
  main()
