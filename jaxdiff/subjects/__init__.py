"""Subjects: what is attacked, by what it gives.

An attack states what it needs, a subject what it gives; a run does every attack
that its subject can serve, and its report says of the others why they were not
done. Attacks are given these functions and arrays, never a network: so they run
unchanged on every subject, and on the closed-form oracles of the tests.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, TypeVar

from jaxdiff.data import examples as examples_lib
from jaxdiff.diffusion import processes, schedules
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.sampling import generate
from jaxdiff.training import plan as training_plan

_T = TypeVar('_T')


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is attacked. What it does not give is None.

  Attributes:
    kind: in a word or two, for people.
    examples: images, and which of its models trained on which.
    ensemble: its models, and how their weights come back.
    schedule: noise schedule of the models.
    eps_fn_of: params of a model -> its noise predictor.
    drawing_eps_fn_of: params -> that which samples are drawn with, where it is
      another (guidance, a learned variance).
    draw: (eps_fn, key, indices, cond) -> x0, the sampler.
    sample: how samples are made.
    train: how further models are trained like its own.
  """

  kind: str
  examples: examples_lib.Examples | None = None
  ensemble: ensemble_lib.Ensemble | None = None
  schedule: schedules.Schedule | None = None
  eps_fn_of: Callable[[Any], processes.EpsFn] | None = None
  drawing_eps_fn_of: Callable[[Any], processes.EpsFn] | None = None
  draw: Callable[..., Any] | None = None
  sample: generate.SamplePlan | None = None
  train: training_plan.TrainPlan | None = None

  def lacks(self, needs: Sequence[str]) -> list[str]:
    """What an attack needs and this does not give, in words."""
    return [
      words
      for name in needs
      for words, fields in [GIVES[name]]
      if any(getattr(self, field) is None for field in fields)
    ]


def given(value: _T | None) -> _T:
  """A field that the stage's NEEDS promised.

  Raises:
    ValueError: if it is None.
  """
  if value is None:
    raise ValueError('a stage uses what its NEEDS do not name')
  return value


# What a subject may give: in words, and the fields that hold it.
GIVES: dict[str, tuple[str, tuple[str, ...]]] = {
  'examples': ('images of known membership', ('examples',)),
  'samples': ('samples', ('sample',)),
  'noise_predictor': (
    'a noise predictor', ('ensemble', 'schedule', 'eps_fn_of'),
  ),
  'sampler': (
    'a sampler that can be guided', ('schedule', 'drawing_eps_fn_of', 'draw'),
  ),
  'training': ('the means to train further models', ('train',)),
}  # fmt: skip
