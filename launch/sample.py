"""The sample stage of a run alone; see launch/audit.py for all of them.

With --prompt_id, one image of a prompt again, as a PNG file:

    launch/local.sh python -m launch.sample --config=configs/pipeline.py \
      --config.model=sd/ --config.prompts=prompts.csv --workdir=runs/sd \
      --prompt_id=17 --image_seed=203 --out=17-203.png
"""

from absl import flags

from jaxdiff import inputs
from jaxdiff.pipeline import redraw
from launch import main

PROMPT_ID = flags.DEFINE_string(
  'prompt_id', None, 'Id of a prompt, as prompts.csv has it: draws one image.'
)
IMAGE_SEED = flags.DEFINE_integer('image_seed', 0, 'Number of its seed.')
MODEL = flags.DEFINE_integer('model', 0, 'Number of the model that draws it.')
OUT = flags.DEFINE_string('out', None, 'A new PNG file.')


def work(config, workdir: str) -> None:
  """Draws all samples, or one image."""
  if PROMPT_ID.value is None:
    for flag in (OUT, IMAGE_SEED, MODEL):
      if flag.present:
        raise inputs.InputError(
          f'--{flag.name}: of which prompt? Give --prompt_id, too'
        )
    main.work_of(['sample'])(config, workdir)
    return
  redraw.draw(
    config,
    workdir,
    PROMPT_ID.value,
    IMAGE_SEED.value,
    MODEL.value,
    OUT.value or '',
  )
  print(f'image: {OUT.value}')


if __name__ == '__main__':
  main.start_work(work)
