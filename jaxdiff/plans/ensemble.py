"""The subject that most runs have: an ensemble that they train themselves."""

import functools

import ml_collections

from jaxdiff import subjects
from jaxdiff.data import datasets
from jaxdiff.data import examples as examples_lib
from jaxdiff.diffusion import samplers, schedules
from jaxdiff.models import unet
from jaxdiff.plans import checks, training
from jaxdiff.plans import model as plans_model
from jaxdiff.subjects import ensemble as ensemble_subject


def make_subject(
  c: ml_collections.ConfigDict,
  dataset: datasets.Dataset,
  step: int | None = None,
) -> tuple[subjects.Subject, unet.UNet]:
  """The ensemble of a config, and its net.

  Args:
    c: the config.
    dataset: that its models train on halves of.
    step: a checkpoint in the midst of training; None is its end.
  """
  conditional = c.model.class_conditional
  examples = examples_lib.split(
    dataset,
    c.seed,
    c.num_models,
    rule=c.split,
    conditional=conditional,
    flip=c.flip,
  )
  schedule = schedules.make(
    c.diffusion.beta_schedule,
    c.diffusion.num_train_timesteps,
    c.diffusion.beta_start,
    c.diffusion.beta_end,
  )
  net = plans_model.make_net(c, examples.shape, dataset.num_classes)
  null_label = dataset.num_classes if c.train.label_dropout > 0 else None
  classes = None
  if conditional:
    classes = checks.labels_of(c.sample.classes, dataset) or tuple(
      range(dataset.num_classes)
    )
  subject = ensemble_subject.make(
    train=training.make_train(c, net, schedule, examples, null_label),
    apply=net.apply,
    schedule=schedule,
    prediction_type=c.diffusion.prediction_type,
    with_variance=c.sample.sampler == 'ddpm'
    and c.sample.variance == 'learned_range',
    null_label=null_label,
    guidance_scale=c.sample.guidance_scale,
    draw=functools.partial(
      samplers.sample,
      schedule=schedule,
      image_shape=examples.shape,
      sampler=c.sample.sampler,
      num_steps=c.sample.num_steps,
      timestep_spacing=c.sample.timestep_spacing,
      eta=c.sample.eta,
      variance=c.sample.variance,
      clip_sample=c.sample.clip_sample,
    ),
    step=step,
    num_samples=c.num_samples,
    block_size=c.sample.block_size,
    batch_size=c.sample.batch_size,
    classes=classes,
    num_steps=c.sample.num_steps,
  )
  return subject, net
