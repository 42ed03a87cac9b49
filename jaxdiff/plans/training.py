"""How models are trained, from a config."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import ml_collections
import optax

from jaxdiff import subjects
from jaxdiff.data import examples as examples_lib
from jaxdiff.diffusion import schedules
from jaxdiff.models import unet
from jaxdiff.plans import model as plans_model
from jaxdiff.plans import privacy
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runtime import prng
from jaxdiff.training import plan as training_plan
from jaxdiff.training import train_step


def make_train(
  c: ml_collections.ConfigDict,
  net: unet.UNet,
  schedule: schedules.Schedule,
  examples: examples_lib.Examples,
  null_label: int | None,
  guarantee: subjects.Guarantee | None = None,
) -> training_plan.TrainPlan:
  """The plan of training every model of the run.

  Args:
    c: the config.
    net: of every model.
    schedule: noise schedule.
    examples: which model trains on which.
    null_label: label of no class; None if nets have none.
    guarantee: what training keeps to; None: nothing.
  """
  conditional = examples.cond is not None
  init_fn = plans_model.make_init_fn(net, examples.shape, conditional)
  if c.model.init_from:
    init_fn = plans_model.start_from(
      c.model.init_from, net, examples.shape, c.diffusion.to_dict()
    )
  loss_fn = plans_model.make_loss_fn(
    net.apply,
    schedule,
    prediction_type=c.diffusion.prediction_type,
    weighting=c.train.weighting,
    label_dropout=c.train.label_dropout,
    null_label=null_label,
    label_noise=c.train.label_noise,
    num_classes=examples.num_classes,
    ambient_timestep=c.train.ambient_timestep,
    ambient_key=prng.root(c.seed, 'ambient'),
  )
  plan = make_plan(
    c, init_fn, train_step.make_grad_fn(loss_fn), make_tx(c.train), examples
  )
  plan = dataclasses.replace(plan, elementwise=True)
  if guarantee is None:
    return plan
  return privacy.apply(c, plan, loss_fn, guarantee)


def make_plan(
  c: ml_collections.ConfigDict,
  init_fn: Callable[[jax.Array], Any],
  grad_fn: train_step.GradFn,
  tx: optax.GradientTransformation,
  examples: examples_lib.Examples,
) -> training_plan.TrainPlan:
  """The plan of training every model of the run.

  Args:
    c: the config.
    init_fn: key -> params of one model.
    grad_fn: of one model and a batch.
    tx: optimiser.
    examples: which model trains on which.
  """
  return training_plan.TrainPlan(
    init_fn=init_fn,
    grad_fn=grad_fn,
    tx=tx,
    ema_decay=c.train.ema_decay,
    examples=examples,
    ensemble=ensemble_lib.Ensemble(
      seed=c.seed,
      num_models=c.num_models,
      models_per_block=c.train.models_per_block,
      devices_per_model=c.train.devices_per_model,
      shapes=lambda: jax.eval_shape(init_fn, jax.random.key(0)),
    ),
    num_steps=last_step(c),
    batch_size=c.train.batch_size,
    device_bytes=c.data.device_megabytes * 2**20,
    log_every=c.train.log_every,
    checkpoint_every=c.train.checkpoint_every,
    max_to_keep=c.train.max_to_keep or None,
    profile_steps=c.train.profile_steps,
  )


def last_step(c: ml_collections.ConfigDict) -> int:
  """The step that training ends at."""
  return c.train.stop_at or c.train.num_steps


def make_tx(train: ml_collections.ConfigDict) -> optax.GradientTransformation:
  """AdamW (Adam without decay) after clipping, with warm-up."""
  warmup = min(train.warmup_steps, train.num_steps - 1)
  if train.decay == 'cosine':
    rate = optax.warmup_cosine_decay_schedule(
      0.0, train.learning_rate, warmup, train.num_steps
    )
  else:
    rate = optax.linear_schedule(0.0, train.learning_rate, warmup)
    if warmup == 0:
      rate = optax.constant_schedule(train.learning_rate)
  clip = (
    optax.clip_by_global_norm(train.clip_norm)
    if train.clip_norm > 0
    else optax.identity()
  )
  return optax.chain(clip, optax.adamw(rate, weight_decay=train.weight_decay))
