"""Writes a model of a run as a diffusers folder."""

import jax
import numpy as np

from jaxdiff import inputs, schema, subjects
from jaxdiff import plans as plans_lib
from jaxdiff.interop import diffusers
from jaxdiff.pipeline import stages
from jaxdiff.runtime import mesh
from jaxdiff.training import block_states


def export(config, workdir: str, model: int, folder: str) -> None:
  """Writes the averaged weights of one trained model as a diffusers folder.

  Args:
    config: ConfigDict of the run.
    workdir: its folder.
    model: number of the model.
    folder: a new one.

  Raises:
    InputError: if the config, a folder or the number is wrong, or the model is
      not trained.
  """
  diffusers.check_new(folder)
  plans_lib.check(config)
  if schema.kind_of(config) not in schema.TRAINED:
    raise inputs.InputError(
      f'--config: {schema.kind_of(config)} have no models to write'
    )
  if schema.kind_of(config) == 'gan':
    raise inputs.InputError(
      '--config: there is no diffusers format of a GAN to write'
    )
  if not 0 <= model < config.num_models:
    raise inputs.InputError(
      f'--model={model}: the run has models 0 to {config.num_models - 1}'
    )
  plans, run = stages.opened(config, workdir)
  train = subjects.given(plans.subject.train)
  block = next(b for b in train.ensemble.blocks(run) if model in b.models)
  params = block_states.restore_ema(train, block, mesh.make(len(block.models)))
  place = block.models.index(model)
  of_model = jax.tree.map(lambda leaf: np.asarray(leaf[place]), params)
  subjects.given(plans.export)(of_model, folder)
