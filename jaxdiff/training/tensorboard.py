"""The training metrics once more, for TensorBoard."""

from absl import logging
import pandas as pd

from jaxdiff import inputs
from jaxdiff.runs import layout


def write_part(block: layout.ModelBlock, step: int, part: pd.DataFrame) -> None:
  """Adds one part of the metrics, a TensorBoard run a model.

  Args:
    block: whose metrics; a remote folder has none, metrics.csv holds all.
    step: of the checkpoint that ends the part.
    part: columns model, step, name, value.
  """
  if '://' in str(block.path):
    logging.log_first_n(
      logging.WARNING, 'TensorBoard events are written to local folders', 1
    )
    return
  import tensorboardX  # takes torch with it where that is installed

  try:
    _write(tensorboardX, block, step, part)
  except Exception as error:  # its writer has a thread and kinds of its own
    # The same figures are in metrics.csv.
    logging.warning(
      '%s: no events are written: %s',
      block.tensorboard,
      inputs.one_line(error),
    )


def _write(tensorboardX, block, step, part) -> None:
  for model, rows in part.groupby('model'):
    with tensorboardX.SummaryWriter(
      str(block.tensorboard / f'model-{model:03d}'),
      filename_suffix=f'.{step:08d}',
    ) as writer:
      for row in rows.itertuples():
        writer.add_scalar(f'train/{row.name}', row.value, row.step)
