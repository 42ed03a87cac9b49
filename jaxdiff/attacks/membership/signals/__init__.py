"""Signals: what can be asked of a model about one image, a module each.

Every signal turns images into columns of numbers, smaller = more likely a
member, and describes them in a table: name, t, draw, flip, layer, cost. The
cost is in denoiser calls for an image, as if the column were measured alone; a
backward pass counts as two. In the equations of the modules e(x, t) is the
noise predictor, a and s are signal and noise scale at t, mean and norms are
over pixels, [x -> y] is a DDIM step without noise from one timestep to another.

`..._published` are the settings of the authors' public code (SecMI, ReDiffuse,
MIA-Gen); the others leave timesteps, strides and draws to the config. Norms are
means, (mean |x|^4)^(1/4), whatever the size of the image; they order images as
sums do. Noise is folded from (attack root, example, t, draw) and never from the
model or the mirror: the same noise for all models, and for an image and its
mirror image, is what makes likelihood-ratio attacks sharp.

A new signal is a new module here, with a dict SIGNALS; nothing lists it.
"""

import importlib
import pkgutil

import pandas as pd

from jaxdiff.attacks.membership.signals import base


def _find() -> dict[str, base.Signal]:
  """Signals of all modules here, in the order of tables."""
  everywhere = {}
  for info in pkgutil.iter_modules(__path__):
    module = importlib.import_module(f'{__name__}.{info.name}')
    for name, signal in getattr(module, 'SIGNALS', {}).items():
      if name in everywhere:
        raise ValueError(f'two signals are called {name!r}')
      everywhere[name] = signal

  def order(name: str):
    signal = everywhere[name]
    return signal.learned, signal.published, signal.place, name

  return {name: everywhere[name] for name in sorted(everywhere, key=order)}


def calls(queries: pd.DataFrame) -> float:
  """Denoiser calls an image that a table of columns takes, each once."""
  return float(
    sum(
      SIGNALS[str(name)].calls(costs)
      for name, costs in queries.groupby('name')['cost']
    )
  )


# All signals, by name.
SIGNALS = _find()
# Those that a config names; the others come with `signals.published`.
CHOICES = tuple(name for name, x in SIGNALS.items() if not x.published)
# Those of them that are asked of a discriminator, and of a noise predictor.
OF_DISCRIMINATOR = tuple(
  x for x in CHOICES if SIGNALS[x].of == base.DISCRIMINATOR
)
OF_NOISE = tuple(x for x in CHOICES if x not in OF_DISCRIMINATOR)
# Those of the latter that no caption is needed for.
WITHOUT_CAPTIONS = tuple(x for x in OF_NOISE if not SIGNALS[x].captions)
