"""Stage: was this image trained on?"""

from collections.abc import Sequence
import dataclasses
import math

import jax
import jax.numpy as jnp
import ml_collections
import pandas as pd

from jaxdiff import schema, subjects
from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership import lira, measure, paths, registry
from jaxdiff.attacks.membership import signals as signals_lib
from jaxdiff.attacks.membership.signals import base as signal_base
from jaxdiff.nearest import sizes
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost, programs

VERB = 'attack'
PLACE = 1
WORDS = 'membership'
NEEDS = ('examples', 'non_members', 'measurable')


@dataclasses.dataclass(frozen=True)
class Membership:
  """Signals of every model and example, and what is made of them."""

  signals: measure.SignalPlan
  scores: membership_evaluate.MembershipPlan


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense.

  Kinds whose models are told captions, or that bring a schedule, do so
  themselves.
  """
  if schema.kind_of(c) == schema.ENSEMBLE:
    check_signals(c, c.diffusion.num_train_timesteps)


def check_scores(c: ml_collections.ConfigDict) -> None:
  """The same, of what is made of signals, of whatever."""
  for key, known in (
    ('transform', membership_evaluate.TRANSFORMS), ('variance', lira.VARIANCES),
  ):  # fmt: skip
    value = c.membership.get(key, 'none')  # GANs have no transform
    need(
      value in known,
      f'membership.{key}: no {value!r}; there is {", ".join(known)}',
    )


def check_signals(
  c: ml_collections.ConfigDict, steps: int, captions: bool = False
) -> None:
  """The same, of a schedule of so many timesteps: a folder has its own.

  Args:
    c: the config.
    steps: of the schedule.
    captions: whether nets are told captions.
  """
  check_scores(c)
  timesteps = tuple(c.signals.timesteps)
  need(
    len(timesteps) > 0
    and all(type(t) is int and 0 <= t <= 10**6 for t in timesteps),
    f'signals.timesteps: {timesteps!r} must be whole numbers like (16, 32)',
  )
  need(
    all(t < steps for t in timesteps),
    f'signals.timesteps: {timesteps} must lie in 0 .. {steps - 1}',
  )
  choices = signals_lib.OF_NOISE if captions else signals_lib.WITHOUT_CAPTIONS
  unknown = set(c.signals.kinds) - set(choices)
  need(
    not unknown and 'loss' in c.signals.kinds,
    f'signals.kinds: {tuple(c.signals.kinds)} must have loss, and may have '
    f'{", ".join(name for name in choices if name != "loss")}',
  )
  for kind, signal in signals_lib.SIGNALS.items():
    asked = kind in c.signals.kinds
    if not (_published(c) if signal.published else asked):
      continue
    need(
      signal.num_timesteps in (0, steps),
      f'signals.{"published" if signal.published else "kinds"}: {kind} is for '
      f'{signal.num_timesteps} timesteps, num_train_timesteps is {steps}',
    )
    if signal.stride:
      stride = c.signals[signal.stride]
      need(
        any(t and t % stride == 0 for t in timesteps)
        and max(timesteps) + stride < steps,
        f'signals.{signal.stride}: {kind} needs signals.timesteps that divide '
        f'by {stride}, the largest below {steps - stride}',
      )
  need(
    c.membership.timestep in timesteps,
    f'membership.timestep: {c.membership.timestep} is not among '
    f'signals.timesteps {timesteps}',
  )


def _published(c: ml_collections.ConfigDict) -> bool:
  """Whether settings of authors are asked for; some kinds have no such key."""
  return c.signals.get('published', False)


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  examples = subjects.given(subject.examples)
  plan = Membership(
    signals=make_signals(c, subject),
    scores=membership_evaluate.MembershipPlan(
      examples=examples,
      timestep=c.membership.get('timestep', 0),
      transform=c.membership.get('transform', 'none'),
      variance=c.membership.variance,
      num_resamples=c.membership.num_resamples,
      seed=c.seed,
    ),
  )
  num_models, count = examples.num_models, len(examples)

  def run(folder: layout.Run) -> None:
    measure.measure(plan.signals, folder)
    if multihost.is_first():
      stored, queries = measure.load(
        folder, num_models, count, plan.signals.block_size
      )
      membership_evaluate.analyse(plan.scores, stored, queries, folder)

  def cost(units: stage_lib.Units) -> stage_lib.Cost:
    calls = signals_lib.calls(plan.signals.queries)
    return stage_lib.Cost(
      flops=num_models * count * calls * units.network_flops,
      disk=4.0 * num_models * count * len(plan.signals.queries),
    )

  chosen = registry.attacks(
    plan.signals.queries,
    examples.images,
    examples.group,
    examples.targets is not None,
  )

  def programs_of(devices: Sequence[jax.Device]) -> list[programs.Program]:
    own = programs.of_one_process(devices)
    return [
      *measure.programs_of(plan.signals, devices),
      *registry.programs_of(
        chosen, plan.signals.queries, examples, plan.scores.timestep, own
      ),
      *sizes.programs_of(
        'outliers', count, count, math.prod(examples.shape), 2, own, 1.0
      ),
    ]

  return stage_lib.Stage(
    run=run,
    cost=cost,
    plan=plan,
    smaller=('signals.batch_size',),
    programs=programs_of,
    files=paths.Paths.reported(),
    fields=registry.fields(chosen, examples),
    batch_sizes={'signals.batch_size': plan.signals.batch_size},
  )


def make_signals(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> measure.SignalPlan:
  """Every signal that the config asks for, measured together."""
  if subject.adversary is not None:
    settings = signal_base.Settings(fakes=c.signals.fakes, seed=c.seed)
  else:
    settings = signal_base.Settings(
      timesteps=tuple(sorted(set(c.signals.timesteps))),
      draws=c.signals.draws,
      flip=c.get('flip', False),
      stride=c.signals.stride,
      variations=c.signals.variations,
      variation_stride=c.signals.variation_stride,
    )
  asked = [signals_lib.SIGNALS[name] for name in c.signals.kinds]
  if _published(c):
    asked += [x for x in signals_lib.SIGNALS.values() if x.published]
  asked.sort(key=lambda signal: signal.learned)
  learned = any(signal.learned for signal in asked)
  need(
    subject.train is not None or not learned,
    f'signals.kinds: gsa reads weights, which {subject.kind} does not give',
  )
  # Gradients have a column a layer: these are counted on shapes.
  shapes = None
  if subject.train is not None and learned:
    shapes = jax.eval_shape(subject.train.init_fn, jax.random.key(0))
  columns = [signal.queries(settings, shapes) for signal in asked]

  examples = subjects.given(subject.examples)
  asked_of = subjects.given(subject.measurable)

  def signal_fn(params, x0, cond, keys):
    values = [
      signal.make(asked_of, subject.schedule, settings)(params, x0, cond, keys)
      for signal in asked
    ]
    return jnp.concatenate(values, axis=1)

  plan = measure.SignalPlan(
    signal_fn=signal_fn,
    queries=pd.concat(columns, ignore_index=True),
    ensemble=subjects.given(subject.ensemble),
    images=examples.images if subject.measured is None else subject.measured,
    cond=examples.cond,
    block_size=c.signals.block_size,
    batch_size=c.signals.batch_size,
  )
  if subject.prepare is None:
    return plan
  return dataclasses.replace(plan, prepare=subject.prepare)
