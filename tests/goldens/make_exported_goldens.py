"""What diffusers draws from a folder that we wrote.

    JAXDIFF_EXTRAS=bench,text launch/local.sh \
      python -m tests.goldens.make_exported_goldens

writes tests/goldens/exported.npz: noise, and guided images of `tests.exported`.
"""

import pathlib
import tempfile

import diffusers
import numpy as np
import torch

from jaxdiff.interop import pipeline_folder
from tests import exported

HERE = pathlib.Path(__file__).parent


def main() -> None:
  torch.set_num_threads(1)
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place) / 'folder'
    pipeline_folder.write(str(folder), exported.model())
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
  pipe.set_progress_bar_config(disable=True)
  size = exported.SIZE
  noise = np.random.default_rng(0).standard_normal((2, size, size, 3))
  noise = noise.astype(np.float32)
  images = pipe(
    list(exported.CAPTIONS[:2]),
    latents=torch.from_numpy(noise.transpose(0, 3, 1, 2).copy()),
    num_inference_steps=exported.STEPS, guidance_scale=exported.GUIDANCE,
    output_type='np', height=size, width=size,
  ).images  # fmt: skip
  np.savez_compressed(HERE / 'exported.npz', noise=noise, images=images)


if __name__ == '__main__':
  main()
