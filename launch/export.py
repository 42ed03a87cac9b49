"""Write one trained model as a folder that Hugging Face's diffusers loads.

    launch/local.sh python -m launch.export --config=configs/digits.py \
      --workdir=runs/digits --model=0 --out=digits-0

then, in Python: diffusers.DDPMPipeline.from_pretrained('digits-0').
"""

from absl import flags

from jaxdiff.pipeline import export as pipeline_export
from launch import main

MODEL = flags.DEFINE_integer('model', 0, 'Number of the model.')
OUT = flags.DEFINE_string('out', None, 'A new folder.', required=True)


def work(config, workdir: str) -> None:
  """Exports and says where to."""
  pipeline_export.export(config, workdir, MODEL.value, OUT.value)
  print(f'diffusers folder: {OUT.value}')


if __name__ == '__main__':
  main.start_work(work)
