"""Subjects: what is attacked, by what it gives.

An attack states what it needs, a subject what it gives; a run does every attack
that its subject can serve, and its report says of the others why they were not
done. Attacks are given these functions and arrays, never a network: so they run
unchanged on every subject, and on the closed-form oracles of the tests.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, TypeVar

import numpy as np

from jaxdiff.attacks.membership.signals import base as signal_base
from jaxdiff.data import descriptors as descriptors_lib
from jaxdiff.data import examples as examples_lib
from jaxdiff.data import image_sets, known_prompts
from jaxdiff.data.readers import score_set
from jaxdiff.defences import accounting
from jaxdiff.diffusion import processes, schedules
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runs import layout
from jaxdiff.runs import samples as samples_lib
from jaxdiff.sampling import generate
from jaxdiff.sampling import prompted as prompted_lib
from jaxdiff.subjects import told as told_lib
from jaxdiff.training import plan as training_plan

_T = TypeVar('_T')


@dataclasses.dataclass(frozen=True)
class Pictured:
  """Images by prompt, read one by one from files.

  Attributes:
    prompts: of each image; '' is none.
    first_shape: () -> the shorter side of the first image, and its channels.
    images_of: run -> the images.
  """

  prompts: Sequence[str]
  first_shape: Callable[[], tuple[int, int]]
  images_of: Callable[[layout.Run], image_sets.ImageSet]


@dataclasses.dataclass(frozen=True)
class Guarantee:
  """What the training of each model keeps to (`defences.accounting`).

  Attributes:
    mechanism: what is accounted for.
    epsilon: of it.
    delta: of it.
    warm_epsilon: what the first phase alone takes.
    clip_norm: largest norm of an example's gradient.
    multiplicity: noise draws of an example.
  """

  mechanism: accounting.Mechanism
  epsilon: float
  delta: float
  warm_epsilon: float
  clip_norm: float
  multiplicity: int


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is attacked. What it does not give is None.

  Attributes:
    kind: in a word or two, for people.
    told: what reports say of it.
    examples: images, and which of its models trained on which.
    ensemble: its models, and how their weights come back.
    schedule: noise schedule of the models.
    eps_fn_of: params of a model -> its noise predictor.
    drawing_eps_fn_of: params -> that which samples are drawn with, where it is
      another (guidance, a learned variance).
    adversary: the nets of GANs, in place of a noise predictor.
    draw: (eps_fn, key, indices, cond) -> x0, the sampler.
    samples: how many samples there are, of every model.
    sample: how they are drawn.
    generated: files that they are read from, of every model.
    pictured: images of the first model by prompt.
    prompted: how samples are drawn from prompts.
    known: what is known of these prompts.
    measured: uint8 [N, H, W, C], the examples as nets see them, where
      `examples` holds them smaller.
    prepare: (params, x0, cond) -> what noise predictors take in their place:
      latents, encoded texts.
    descriptors: ways to describe samples and examples beside their pixels.
    signals: what somebody else measured.
    train: how further models are trained like its own.
    guarantee: what their training keeps to; None: it is not private.
  """

  kind: str
  told: told_lib.Told
  examples: examples_lib.Examples | None = None
  ensemble: ensemble_lib.Ensemble | None = None
  schedule: schedules.Schedule | None = None
  eps_fn_of: Callable[[Any], processes.EpsFn] | None = None
  drawing_eps_fn_of: Callable[[Any], processes.EpsFn] | None = None
  adversary: signal_base.Adversary | None = None
  draw: Callable[..., Any] | None = None
  samples: samples_lib.Samples | None = None
  sample: generate.SamplePlan | None = None
  generated: Sequence[image_sets.ImageSet] | None = None
  pictured: Pictured | None = None
  prompted: prompted_lib.PromptedPlan | None = None
  known: known_prompts.Known | None = None
  measured: np.ndarray | None = None
  prepare: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None
  descriptors: Sequence[descriptors_lib.Descriptor] | None = None
  signals: score_set.ScoreSet | None = None
  train: training_plan.TrainPlan | None = None
  guarantee: Guarantee | None = None

  @property
  def some_examples(self) -> examples_lib.Examples | None:
    """The examples, if there are any."""
    return self.examples if self.examples else None

  @property
  def non_members(self) -> examples_lib.Examples | None:
    """The examples, if some of them are held out of what was trained on."""
    if self.examples is None or self.examples.of_targets().keep.all():
      return None
    return self.examples

  @property
  def pairs(self) -> examples_lib.Examples | None:
    """The examples, if models differ in which they trained on."""
    if self.examples is None:
      return None
    keep = self.examples.of_targets().keep
    return self.examples if (keep != keep[:1]).any() else None

  @property
  def measurable(self) -> Any:
    """What signals are asked of: a noise predictor, or a discriminator."""
    if self.ensemble is None or not (self.eps_fn_of or self.adversary):
      return None
    return self.adversary or self.eps_fn_of

  @property
  def captions(self) -> examples_lib.Examples | None:
    """The examples, if some were trained on and all have captions."""
    if self.examples is None or not self.examples.captions:
      return None
    return self.examples if self.examples.keep.any() else None

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
  'examples': ('images of known membership', ('some_examples',)),
  'non_members': ('images that were not trained on', ('non_members',)),
  'pairs': ('models that trained on other images than others', ('pairs',)),
  'samples': ('samples', ('samples',)),
  'sampling': ('the means to draw samples', ('samples', 'sample')),
  'pictures': ('several images of a prompt', ('pictured',)),
  'prompting': ('the means to draw from prompts', ('prompted', 'known')),
  'kept': ('images of prompts that are kept', ('samples', 'prompted')),
  'captions': (
    'images with captions, some of them trained on', ('captions',),
  ),
  'descriptors': ('files of images that can be described', ('descriptors',)),
  'generated': ('files of samples', ('samples', 'generated')),
  'signals': ('signals measured elsewhere', ('signals',)),
  'noise_predictor': (
    'a noise predictor', ('ensemble', 'schedule', 'eps_fn_of'),
  ),
  'measurable': (
    'a noise predictor or a discriminator', ('measurable',),
  ),
  'sampler': (
    'a sampler that can be guided', ('schedule', 'drawing_eps_fn_of', 'draw'),
  ),
  'training': ('the means to train further models', ('train',)),
}  # fmt: skip
