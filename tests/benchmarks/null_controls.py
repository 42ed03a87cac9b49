"""How often each membership attack sees members where there are none.

    launch/local.sh python -m tests.benchmarks.null_controls

Signals of pure noise, that depend on no membership, drawn --repeats times with
splits of their own; each attack scores them, and its 95 % interval of the AUC
must hold 1/2. One JSON line an attack: the share of intervals that do not (5 %
of them may), and the attack's mean AUC.
"""

import argparse
import json

import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import controls, registry, signals
from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership.signals import base
from jaxdiff.data import datasets, splits
from jaxdiff.metrics import roc

MODELS, EXAMPLES, TIMESTEP = 8, 120, 100
SETTINGS = base.Settings((TIMESTEP,), draws=2, flip=True, variations=2)


def queries() -> pd.DataFrame:
  layers = {name: np.zeros(1) for name in 'abcdef'}
  parts = [
    signals.SIGNALS[name].queries(SETTINGS, layers)
    for name in signals.WITHOUT_CAPTIONS
  ]
  return pd.concat(parts, ignore_index=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=200)
  parser.add_argument('--attack', help='this one alone')
  args = parser.parse_args()
  columns = queries()
  everything = datasets.digits().images
  group = np.arange(EXAMPLES)
  left_out = splits.left_out_together(MODELS)
  alarms: dict[str, list[bool]] = {}
  aucs: dict[str, list[float]] = {}

  def note(name: str, auc: float, alarm: bool) -> None:
    alarms.setdefault(name, []).append(alarm)
    aucs.setdefault(name, []).append(auc)

  for repeat in range(args.repeats):
    rng = np.random.default_rng(repeat)
    images = everything[rng.permutation(len(everything))[:EXAMPLES]]
    keep = splits.keep_matrix(repeat, range(MODELS), group)
    # An image has a level of its own, which all models share.
    level = rng.normal(size=(1, EXAMPLES, len(columns)))
    noise = rng.normal(size=(MODELS, EXAMPLES, len(columns)))
    signals = np.exp(0.5 * level + 0.3 * noise).astype(np.float32)
    for attack in registry.attacks(columns, images, group):
      if args.attack not in (None, attack.name):
        continue
      read, _ = attack.read(signals, columns, TIMESTEP)
      scores = attack.grid(read, keep, left_out)[..., 0]
      auc, low, high = membership_evaluate.statistics(
        attack, scores, keep, np.ones_like(keep), group, left_out,
        num_resamples=300, seed=repeat, fprs=(),
      )['auc'][:3]  # fmt: skip
      note(f'{attack.name} {attack.variance}', auc, not low <= 0.5 <= high)
    blind = controls.blind(images, keep, left_out, group, repeat, 10)
    auc = roc.statistics(roc.rank(blind.scores, blind.members), fprs=())['auc']
    note('blind baseline, p <= 0.05', auc, blind.p_value <= 0.05)
  for name, found in alarms.items():
    line = {
      'attack': name, 'false_alarms': float(np.mean(found)),
      'mean_auc': round(float(np.mean(aucs[name])), 4), 'repeats': len(found),
    }  # fmt: skip
    print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
