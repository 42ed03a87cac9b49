"""Small pipelines and captioned folders for tests."""

import csv

import jax
import numpy as np
from PIL import Image
from safetensors import numpy as safetensors_numpy

from configs import pipeline as pipeline_config
from jaxdiff.runtime import mesh

PROMPTS = ('a cat', 'the moon over water', 'a dog, a cat and 3 mice')
THINGS = ('cat', 'dog', 'moon', 'tree', 'house', 'boat', 'river', 'horse')
PLACES = ('on a table', 'in the snow', 'by the sea', 'at night', 'from above')


def config_of(folder, **keys):
  """A config for minutes; dotted keys with '__'."""
  config = pipeline_config.get_config()
  config.model = str(folder)
  config.num_seeds = 2
  config.sample.num_steps = 4
  config.sample.guidance_scale = 3.0
  config.sample.batch_size = 4
  config.sample.block_size = 4
  config.signals.timesteps = (50, 300)
  config.signals.draws = 2
  config.membership.num_resamples = 40
  for key, value in keys.items():
    config.update_from_flattened_dict({key.replace('__', '.'): value})
  return config


def caption(rng):
  """Any of 40."""
  return f'a {rng.choice(THINGS)} {rng.choice(PLACES)}'


def write_folder(folder, count, seed, say=caption):
  """A folder of noise with captions in metadata.csv."""
  rng = np.random.default_rng(seed)
  folder.mkdir(parents=True)
  with (folder / 'metadata.csv').open('w', newline='') as file:
    rows = csv.writer(file)
    rows.writerow(['file_name', 'caption'])
    for number in range(count):
      pixels = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
      Image.fromarray(pixels).save(folder / f'{number}.png')
      rows.writerow([f'{number}.png', say(rng)])
  return folder


def mesh_of(devices):
  """Of one model on some devices."""
  return mesh.make(1, jax.devices()[:devices])


def shift_weights(path, step):
  """Makes every float of a file larger, so that its net is another."""
  state = safetensors_numpy.load_file(path)
  state = {k: v + np.asarray(step, v.dtype) for k, v in state.items()}
  path.write_bytes(safetensors_numpy.save(state))
