"""Makes one image of a prompt again, by the number of its seed."""

import os

from etils import epath
import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.pipeline import stages
from jaxdiff.runs import files, layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.sampling import prompted


def draw(
  config, workdir: str, prompt_id: str, seed: int, model: int, out: str
) -> None:
  """Writes the image as a PNG file.

  Args:
    config: ConfigDict of the run.
    workdir: its folder.
    prompt_id: of the prompt, as the tables of the run call it.
    seed: number of the image's seed.
    model: number of the model.
    out: a new file.

  Raises:
    InputError: if the run, the prompt, a number or the file is wrong.
  """
  if not out.lower().endswith('.png'):
    raise inputs.InputError('--out: name a new PNG file')
  path = inputs.local(out, '--out').absolute()
  if os.path.lexists(path):
    raise inputs.InputError(
      f'--out: {inputs.name_of(path)} exists: name a new file'
    )
  if not path.parent.is_dir():
    raise inputs.InputError(
      f'--out: {inputs.name_of(path.parent)} is no folder'
    )
  if not 0 <= seed < 2**31:
    raise inputs.InputError(f'--image_seed={seed} is not within 0 .. 2^31 - 1')
  plans, run = stages.opened(config, workdir)
  plan = plans.subject.prompted
  if plan is None:
    raise inputs.InputError(
      '--prompt_id: the run draws from no prompts; --config.prompts names some'
    )
  ids = plan.table['id'].astype(str)
  # Tables put a quote before what a spreadsheet would run.
  rows = ids.isin([prompt_id, prompt_id.removeprefix("'")])
  if not rows.any():
    raise inputs.InputError(
      f'--prompt_id: no {inputs.one_line(prompt_id, 80)}; ids are those of '
      'the column id in prompts/prompts.csv'
    )
  if not 0 <= model < plan.ensemble.num_models:
    raise inputs.InputError(
      f'--model={model}: the run has models 0 to {plan.ensemble.num_models - 1}'
    )
  number = int(plan.table.loc[rows, 'number'].iloc[0])
  index = number + len(plan.texts) * seed
  block = next(x for x in plan.ensemble.blocks(run) if model in x.models)
  mesh = mesh_lib.make(len(block.models))
  image = _drawn(plan, block, mesh, model, index)
  files.write(epath.Path(path), files.png_bytes(image))


def _drawn(
  plan: prompted.PromptedPlan, block: layout.ModelBlock, mesh, model, index
) -> np.ndarray:
  """uint8 [H, W, C] of one sample."""
  slots = mesh_lib.split_slots(mesh, plan.ensemble.restore(block, mesh))
  for slot, params in enumerate(slots):
    models = block.first + mesh_lib.slot_models(mesh, len(block.models), slot)
    if model in models:
      x0 = prompted.make_sampler(plan, mesh)(params, models, np.array([index]))
      place = models.tolist().index(model)
      return datasets.to_uint8(x0[place, 0])
  raise ValueError(f'model {model} is in no slot')
