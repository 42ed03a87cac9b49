"""Every command of docs/bring_your_own.md is run, on small sets."""

import os
import re
import shlex
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
from sklearn import datasets

from tests import processes, tiny

pytestmark = pytest.mark.slow

# What ends with another code than 0, by a part of the command: the samples hold
# copies.
CODES = {'--fail_if': 3, '--check': 3}
# So that it takes seconds.
QUICK = [
  '--config.membership.num_resamples=40', '--config.sample.block_size=128',
]  # fmt: skip
QUICK_MODEL = [
  '--config.sample.num_steps=4', '--config.signals.draws=1',
  '--config.signals.timesteps=(50, 100)',
]  # fmt: skip


def commands():
  text = (processes.ROOT / 'docs' / 'bring_your_own.md').read_text()
  blocks = re.findall(r'^```\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
  return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  """A folder with all that the page names."""
  root = tmp_path_factory.mktemp('home')
  digits = np.round(datasets.load_digits().images * (255.0 / 16.0))
  pixels = digits.astype(np.uint8)[np.random.default_rng(0).permutation(1797)]
  parts = np.split(pixels[:1200], (300, 600, 900, 1000, 1100))
  for name, images in zip(
    ('train', 'heldout', 'samples', 'reference1', 'reference2', 'reference3'),
    parts, strict=True,
  ):  # fmt: skip
    (root / name).mkdir()
    if name == 'samples':
      images = np.concatenate([images, parts[0][:60]])
    for number, image in enumerate(images):
      Image.fromarray(image).save(root / name / f'{number}.png')
  plans = tiny.plans(num_models=1)
  params = tiny.random_params(plans.subject.train, 1)

  def first(tree):
    if isinstance(tree, dict):
      return {name: first(leaf) for name, leaf in tree.items()}
    return tree[0]

  plans.export(first(params), str(root / 'ddpm'))
  rng = np.random.default_rng(1)
  counts = {'generated': 360, 'training': 300, 'holdout': 300}
  anywhere = np.random.default_rng(2)
  np.savez(
    root / 'embeddings.npz',
    **{name: anywhere.normal(size=(n, 16)) for name, n in counts.items()},
  )
  for prompt in range(2):
    (root / 'byprompt' / f'digit {prompt}').mkdir(parents=True)
    for number in range(12):
      image = pixels[0] if prompt else pixels[1200 + number]
      Image.fromarray(image).save(
        root / 'byprompt' / f'digit {prompt}' / f'{number}.png'
      )
  rows = [
    f'{model},{example},{example % 2},{rng.normal() + example % 2}'
    for model in range(2)
    for example in range(100)
  ]
  text = '\n'.join(['model,example,member,score', *rows])
  (root / 'scores.csv').write_text(text)
  return root


def test_the_page_has_commands():
  assert len(commands()) == 9


def test_every_command_does_what_the_page_says(home):
  # In the order of the page: one builds what the next asks.
  for line in commands():
    program, *words = shlex.split(line)
    assert program == 'jaxdiff'
    if words[0] == 'audit' and 'scores' not in line:
      words += QUICK
    if 'diffusers' in line:
      words += QUICK_MODEL
    done = subprocess.run(
      [sys.executable, '-c', 'from jaxdiff import command; command.main()',
       *words],
      cwd=home, capture_output=True, text=True, check=False,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip
    wanted = next((code for part, code in CODES.items() if part in line), 0)
    assert done.returncode == wanted, (line, done.stderr)
    if words[0] == 'audit':
      folder = home / re.search(r'--workdir=(\S+)', line)[1]
      assert (folder / 'report.html').exists()
      assert (folder / 'report.json').exists()
