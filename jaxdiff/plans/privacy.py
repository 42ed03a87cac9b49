"""What private training keeps to, from a config."""

import dataclasses
import functools
import math

from absl import logging
import ml_collections
import numpy as np

from jaxdiff import inputs, schema, subjects
from jaxdiff.data import examples as examples_lib
from jaxdiff.defences import accounting, class_moments
from jaxdiff.plans import checks
from jaxdiff.runs import files, layout
from jaxdiff.runtime import prng
from jaxdiff.training import plan as training_plan
from jaxdiff.training import private, train_step

# Of releases: below it epsilon is in the hundreds, its accounting minutes.
_LEAST_NOISE = 0.1


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  if not c.private.epsilon:
    changed = [
      name for name, key in _keys().items()
      if c.private[name] != key.default
    ]  # fmt: skip
    checks.need(
      not changed,
      f'private.{changed[0] if changed else ""}: training is private with '
      'private.epsilon above 0 alone',
    )
    return
  checks.need(
    not c.train.stop_at,
    'train.stop_at: private training spends epsilon on all of train.num_steps',
  )
  checks.need(
    not c.model.init_from or not c.private.warm_releases,
    'private.warm_releases: training starts from model.init_from already',
  )
  checks.need(
    bool(c.private.warm_releases) == bool(c.private.warm_steps),
    'private.warm_steps and private.warm_releases: both or neither',
  )
  checks.need(
    bool(c.private.warm_releases) or not c.private.warm_covariance,
    'private.warm_covariance: needs the means of private.warm_releases',
  )
  for name in ('warm_noise', 'warm_covariance'):
    checks.need(
      not 0.0 < c.private[name] < _LEAST_NOISE,
      f'private.{name}: {c.private[name]:g} is hardly noise: at least '
      f'{_LEAST_NOISE:g}',
    )
  checks.need(
    bool(c.private.warm_covariance)
    or c.private.warm_draws == _keys()['warm_draws'].default,
    'private.warm_draws: images are drawn with private.warm_covariance alone',
  )
  checks.need(
    c.private.warm_steps < c.train.num_steps,
    f'private.warm_steps: {c.private.warm_steps} must be below '
    f'train.num_steps, {c.train.num_steps}',
  )


def _keys() -> dict[str, schema.Key]:
  return schema.GROUPS[schema.ENSEMBLE]['private'][1]


def recorded_noise(run: layout.Run | None) -> float | None:
  """The noise multiplier that a run folder's models are trained with.

  Another version of the accountant finds another one, of nearly the same size:
  a run goes on with its own, and says what epsilon that is.

  Raises:
    InputError: if the folder's record of it is damaged.
  """
  if run is None or not run.noise.exists():
    return None
  with inputs.reading(
    run.noise, 'is damaged (restore it, or give --workdir a new folder)'
  ):
    found = float(files.read_json(run.noise)['noise_multiplier'])
    if not 0.0 < found < math.inf:
      raise ValueError(f'{found} is no noise')
  return found


def guarantee(
  c: ml_collections.ConfigDict,
  examples: examples_lib.Examples,
  sigma: float | None = None,
) -> subjects.Guarantee | None:
  """What each model keeps to; None where training is not private.

  Args:
    c: the config.
    examples: of the run.
    sigma: noise multiplier; None is the smallest that keeps to the epsilon.

  Raises:
    ValueError: if no noise keeps to it.
  """
  if not c.private.epsilon:
    return None
  public = _public(len(examples))
  size = math.prod(examples.shape)
  checks.need(
    not c.private.warm_covariance or size <= class_moments.MOST_NUMBERS,
    f'private.warm_covariance: of images of at most '
    f'{class_moments.MOST_NUMBERS} numbers, and these have {size}',
  )
  if c.private.warm_covariance:
    classes = examples.num_classes if examples.cond is not None else 1
    together = min(c.train.models_per_block, c.num_models)
    inputs.check_size(
      'private.warm_draws',
      4 * size * c.private.warm_draws * classes * together,
    )
  checks.need(
    c.train.batch_size < public,
    f'train.batch_size: private training draws some of {public} examples, not '
    f'{c.train.batch_size}',
  )
  mechanism = accounting.Mechanism(
    count=public,
    batch_size=c.train.batch_size,
    num_steps=c.train.num_steps - c.private.warm_steps,
    noise_multiplier=0.0,
    warm_releases=c.private.warm_releases,
    warm_share=c.private.warm_share,
    warm_noise=c.private.warm_noise,
    warm_covariance=c.private.warm_covariance,
  )
  if sigma is None:
    try:
      sigma = accounting.noise_multiplier(
        mechanism, c.private.epsilon, c.private.delta
      )
    except ValueError as error:
      raise ValueError(f'private.epsilon: {error}') from error
  mechanism = dataclasses.replace(mechanism, noise_multiplier=sigma)
  only_warm = dataclasses.replace(mechanism, num_steps=0)
  found = subjects.Guarantee(
    mechanism=mechanism,
    epsilon=accounting.epsilon(mechanism, c.private.delta),
    warm_epsilon=(
      accounting.epsilon(only_warm, c.private.delta)
      if mechanism.warm_releases
      else 0.0
    ),
    delta=c.private.delta,
    clip_norm=c.private.clip_norm,
    multiplicity=c.private.multiplicity,
  )
  logging.info(
    'private: epsilon %.4g at delta %g, noise multiplier %.4g, %d of %d '
    'examples a step', found.epsilon, found.delta, sigma, c.train.batch_size,
    public,
  )  # fmt: skip
  return found


def _public(count: int) -> int:
  """What training sets of so many images have on average, whatever they are."""
  return count // 2


def apply(
  c: ml_collections.ConfigDict,
  train: training_plan.TrainPlan,
  loss_fn: train_step.LossFn,
  kept_to: subjects.Guarantee,
) -> training_plan.TrainPlan:
  """The same training, private.

  Args:
    c: the config.
    train: plain training.
    loss_fn: of the images of a batch.
    kept_to: what it keeps to.
  """
  examples = train.examples
  most = int(examples.keep.sum(axis=1).max())
  warm = kept_to.mechanism.warm_releases
  if warm and kept_to.mechanism.warm_covariance:
    warm = c.private.warm_draws
  conditional = examples.cond is not None
  classes = examples.num_classes if conditional else 1
  made = functools.partial(
    _warm_images,
    c.seed,
    kept_to.mechanism,
    examples.num_classes if conditional else 0,
    c.private.warm_draws,
  )
  return dataclasses.replace(
    train,
    grad_fn=private.make_grad_fn(
      loss_fn,
      clip_norm=kept_to.clip_norm,
      noise_multiplier=kept_to.mechanism.noise_multiplier,
      expected=c.train.batch_size,
      multiplicity=kept_to.multiplicity,
      flip=examples.flip,
      at_once=c.private.at_once or None,
    ),
    private=training_plan.Private(
      rows=accounting.rows(
        c.train.batch_size * most / kept_to.mechanism.count,
        most,
        c.train.num_steps,
      ),
      count=kept_to.mechanism.count,
      warm_steps=c.private.warm_steps,
      warm_grad_fn=private.make_warm_grad_fn(loss_fn) if warm else None,
      warm_images=made if warm else None,
      warm_count=warm * classes,
      # Not `rows`, which the other models of the run have a say in.
      warm_rows=accounting.filled(c.train.batch_size),
      warm_cond=(
        np.tile(np.arange(classes, dtype=np.int32), warm)
        if conditional
        else None
      ),
    ),
  )


def _warm_images(
  seed: int,
  mechanism: accounting.Mechanism,
  num_classes: int,
  count: int,
  images: np.ndarray,
  labels: np.ndarray | None,
  model: int,
) -> np.ndarray:
  """What a model's training starts with, of its own training set."""
  rng = prng.rng(seed, 'warm', model)
  made = class_moments.releases(
    images,
    labels,
    num_classes,
    count=mechanism.warm_releases,
    public=mechanism.count,
    share=mechanism.warm_share,
    noise=mechanism.warm_noise,
    rng=rng,
  )
  if mechanism.warm_covariance:
    made = class_moments.draws(
      images,
      labels,
      num_classes,
      np.clip(made.mean(axis=0), -1.0, 1.0),
      count=count,
      public=mechanism.count,
      noise=mechanism.warm_covariance,
      rng=rng,
    )
  return np.clip(made, -1.0, 1.0).reshape(-1, *images.shape[1:])


def of_all(
  c: ml_collections.ConfigDict,
  kept_to: subjects.Guarantee,
  private_of_run: training_plan.Private,
  examples: examples_lib.Examples,
  seed: int,
) -> training_plan.Private:
  """The same where every model trains on all images, and more of its own.

  Each is drawn less often than in the run, which keeps to the same epsilon.

  Args:
    c: the config.
    kept_to: by the models of the run.
    private_of_run: how these are trained.
    examples: what the others train on.
    seed: of the others, another one.
  """
  most = int(examples.keep.sum(axis=1).max())
  mechanism = dataclasses.replace(
    kept_to.mechanism, count=2 * kept_to.mechanism.count
  )
  classes = examples.num_classes if examples.cond is not None else 0
  warm = functools.partial(
    _warm_images, seed, mechanism, classes, c.private.warm_draws
  )
  return dataclasses.replace(
    private_of_run,
    count=mechanism.count,
    rows=accounting.rows(
      c.train.batch_size * most / mechanism.count, most, c.train.num_steps
    ),
    warm_images=warm if private_of_run.warm_images else None,
  )
