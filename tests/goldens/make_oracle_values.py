"""Pins what attacks must find on the oracles, in float64 NumPy alone.

    launch/local.sh python -m tests.goldens.make_oracle_values

writes tests/data/oracle_values.json: for each oracle, AUC of the loss
threshold (20 draws averaged) and of every other kind of signal at some
timesteps, and the number of training
and control images that 2,000 DDIM samples lie within RMSE 0.02 of. Nothing
here imports the project: this is the second implementation.
"""

import json
import pathlib

import numpy as np
from sklearn import datasets, metrics

from tests import naive_signals

DRAWS = 20
TIMESTEPS = (50, 100, 200, 400)
KIND_TIMESTEPS = (50, 100, 200)
SAMPLES = 2000
STEPS = 50
# Of the kinds that take DDIM steps, and of ReDiffuse.
STRIDE, VARIATIONS = 10, 10
SIZES = {'memoriser': 400, 'overfitter': 100, 'generaliser': 400}

abar = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))


def predictor(name, images, everything):
  if name == 'memoriser':

    def eps_hat(x, t):
      a, s = np.sqrt(abar[t]), np.sqrt(1.0 - abar[t])
      log = -((x[:, None] - a * images[None]) ** 2).sum(-1) / (2 * s * s)
      weight = np.exp(log - log.max(axis=1, keepdims=True))
      weight /= weight.sum(axis=1, keepdims=True)
      return (x - a * weight @ images) / s

    return eps_hat

  fitted = everything if name == 'generaliser' else images
  mean = fitted.mean(axis=0)
  cov = np.cov(fitted.T, bias=True)

  def eps_hat(x, t):
    a, s = np.sqrt(abar[t]), np.sqrt(1.0 - abar[t])
    full = a * a * cov + s * s * np.eye(len(mean))
    return s * np.linalg.solve(full, (x - a * mean).T).T

  return eps_hat


def kinds(eps_hat, both, is_member, rng):
  """AUC by kind and timestep, of images as [n, 8, 8, 1]."""
  shape = (len(both), 8, 8, 1)

  def eps_fn(x, t):
    return eps_hat(x.reshape(len(x), -1), t).reshape(x.shape)

  x0 = both.reshape(shape)
  draw = lambda: rng.standard_normal(shape)
  signals = {
    'secmi': lambda t: naive_signals.secmi(eps_fn, abar, x0, t, STRIDE),
    'pia': lambda t: naive_signals.pia(eps_fn, abar, x0, t),
    'pian': lambda t: naive_signals.pia(eps_fn, abar, x0, t, True),
    'pfami': lambda t: naive_signals.pfami(
      eps_fn, abar, x0, draw(), t, np.linspace(0.95, 0.70, 10)
    ),
    'sima': lambda t: naive_signals.sima(eps_fn, x0, t),
    'rediffuse': lambda t: naive_signals.rediffuse(
      eps_fn, abar, x0, [draw() for _ in range(VARIATIONS)], t, STRIDE
    ),
  }
  return {
    kind: {
      str(t): round(metrics.roc_auc_score(is_member, -signal(t)), 4)
      for t in KIND_TIMESTEPS
    }
    for kind, signal in signals.items()
  }


def main():
  raw = np.round(datasets.load_digits().data * (255.0 / 16.0))
  everything = raw / 127.5 - 1.0
  order = np.random.default_rng(0).permutation(len(everything))
  out = {}
  for name, n in SIZES.items():
    rng = np.random.default_rng(1)
    members, others = everything[order[:n]], everything[order[n : 2 * n]]
    eps_hat = predictor(name, members, everything)
    both = np.concatenate([members, others])
    is_member = np.arange(2 * n) < n
    aucs = {}
    for t in TIMESTEPS:
      a, s = np.sqrt(abar[t]), np.sqrt(1.0 - abar[t])
      loss = np.zeros(2 * n)
      for _ in range(DRAWS):
        eps = rng.standard_normal(both.shape)
        loss += ((eps_hat(a * both + s * eps, t) - eps) ** 2).mean(axis=1)
      aucs[str(t)] = round(metrics.roc_auc_score(is_member, -loss), 4)

    x = rng.standard_normal((SAMPLES, 64))
    steps = np.arange(STEPS)[::-1] * (1000 // STEPS)
    for i, t in enumerate(steps):
      below = abar[steps[i + 1]] if i + 1 < STEPS else 1.0
      eps = eps_hat(x, t)
      x0 = (x - np.sqrt(1.0 - abar[t]) * eps) / np.sqrt(abar[t])
      x = np.sqrt(below) * np.clip(x0, -1, 1) + np.sqrt(1.0 - below) * eps
    hits = []
    for half in (members, others):
      squared = ((x[:, None] - half[None]) ** 2).mean(-1)
      rmse = np.sqrt(squared) / 2.0
      hits.append(len(np.unique(rmse.argmin(1)[rmse.min(1) < 0.02])))
    out[name] = {
      'auc': aucs,
      **kinds(eps_hat, both, is_member, rng),
      'training_hits': hits[0],
      'control_hits': hits[1],
    }
  path = pathlib.Path(__file__).parent / 'oracle_values.json'
  path.write_text(json.dumps(out, indent=2) + '\n')
  print(path.read_text())


if __name__ == '__main__':
  main()
