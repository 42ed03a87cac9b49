"""Membership on a pipeline: latents, captions, their controls, references."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.membership import controls, measure, text_features
from jaxdiff.attacks.membership import paths as membership_paths
from jaxdiff.data import captions, image_sets
from jaxdiff.diffusion import processes
from jaxdiff.interop import pipeline as interop
from jaxdiff.pipeline import stages
from jaxdiff.plans import sides
from jaxdiff.runs import files, layout
from jaxdiff.runtime import prng
from jaxdiff.sampling import text_to_image
from tests import adapters, captioned
from tests.interop import test_lora
from tests.interop import test_pipeline as folders

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp('subject')
  for kind in ('sd1', 'sdxl'):
    folders.write(folder / kind, kind)
  for number in (1, 2):
    other = shutil.copytree(folder / 'sd1', folder / f'other{number}')
    captioned.shift_weights(other / folders.UNET, 0.01 * number)
  captioned.write_folder(folder / 'training', 20, 0)
  captioned.write_folder(folder / 'holdout', 20, 1)
  return folder


def config_of(root, kind='sd1', **keys):
  return captioned.config_of(
    root / kind, training=str(root / 'training'),
    holdout=str(root / 'holdout'), **keys,
  )  # fmt: skip


@pytest.fixture(scope='module')
def finished(root, tmp_path_factory):
  path = tmp_path_factory.mktemp('run') / 'run'
  others = ','.join(str(root / f'other{k}') for k in (1, 2))
  return stages.run_stages(
    config_of(
      root, references=others,
      signals__kinds=('loss', 'secmi', 'pia', 'sima', 'clid'),
    ),
    str(path),
  )  # fmt: skip


def test_it_is_scored_beside_both_blind_baselines(finished):
  paths = membership_paths.Paths(finished)
  table = files.read_csv(paths.comparison)
  assert {'threshold', 'secmi', 'pia', 'sima', 'clid', 'offline_lira'} <= set(
    table['attack']
  )
  blind = files.read_csv(paths.blind_captions).iloc[0]
  assert blind['shifted'] == 0  # captions of both sides are drawn alike
  document = json.loads(finished.document.read_text())
  assert any('blind_captions.auc' in name for name in json.dumps(
    document).split('"'))  # fmt: skip
  assert 'captions alone' in finished.report.read_text()


@pytest.mark.parametrize('kind', ['sd1', 'sdxl'])
def test_losses_are_those_of_latents_and_captions_one_by_one(root, kind):
  plans = plans_lib.make(config_of(root, kind, signals__kinds=('loss',)))
  plan = plans.plan('membership').signals
  (block,) = plan.ensemble.blocks(layout.Run(layout.folder('/nowhere')))
  mesh = captioned.mesh_of(1)
  params = plan.ensemble.restore(block, mesh)
  measurer = measure.make_measurer(plan, mesh)
  found = measurer(params, np.zeros(1, int), np.arange(4))[0]
  model = interop.read(str(root / kind))
  nets = [part.net for part in model.text_encoders]
  weights = [part.params() for part in model.text_encoders]
  texts = plans.subject.examples.captions
  schedule = model.scheduler.schedule
  coder, denoiser = model.autoencoder.params(), model.denoiser.params()

  @jax.jit
  def loss_of(image, tokens, noise, t):
    z = model.autoencoder.net.apply(coder, image[None], method='encode').mean
    z = (z - model.shift_factor) * model.scaling_factor
    cond = text_to_image.encode(nets, weights, tokens)
    if len(nets) > 1:
      cond = text_to_image.with_sizes(cond, *image.shape[:2])
    eps = jax.random.normal(noise, z.shape[1:])[None]
    x_t = processes.add_noise(schedule, z, eps, t)
    out = model.denoiser.net.apply(denoiser, x_t, t, cond)
    eps_hat = processes.to_eps(
      schedule, out, x_t, t, model.scheduler.prediction_type
    )
    return jnp.square(eps_hat - eps).mean()

  for n in range(2):
    image = plans.subject.measured[n].astype(np.float32) / 127.5 - 1.0
    tokens = [jnp.asarray(words([texts[n]])) for words in model.tokenizers]
    key = jax.random.fold_in(prng.root(0, 'attack'), n)
    for q, row in enumerate(plan.queries.itertuples()):
      noise = jax.random.fold_in(jax.random.fold_in(key, row.t), row.draw)
      want = loss_of(image, tokens, noise, jnp.array([row.t]))
      np.testing.assert_allclose(found[n, q], want, rtol=1e-3)


def test_references_must_be_of_the_same_words_and_noise(root, tmp_path):
  other = shutil.copytree(root / 'other1', tmp_path / 'words')
  merges = other / 'tokenizer' / 'merges.txt'
  if merges.exists():
    lines = merges.read_text().splitlines()
    merges.write_text('\n'.join([lines[0], *lines[40:], '']))
  else:
    path = other / 'tokenizer' / 'tokenizer.json'
    content = json.loads(path.read_text())
    content['model']['merges'] = content['model']['merges'][40:]
    path.write_text(json.dumps(content))
  with pytest.raises(inputs.InputError, match='has another tokenizer'):
    plans_lib.make(config_of(root, references=str(other)))
  other = shutil.copytree(root / 'other1', tmp_path / 'noise')
  path = other / 'scheduler' / 'scheduler_config.json'
  content = json.loads(path.read_text()) | {'beta_end': 0.02}
  path.write_text(json.dumps(content))
  with pytest.raises(inputs.InputError, match='has other noise'):
    plans_lib.make(config_of(root, references=str(other)))
  with pytest.raises(inputs.InputError, match='number 1 is model itself'):
    plans_lib.make(config_of(root, references=str(root / 'sd1')))
  # With adapters, the folder alone is another model.
  model = interop.read(str(root / 'sd1'))
  state, _ = adapters.make(test_lora.shapes_of(model), 'peft')
  path = test_lora.save(tmp_path / 'a.safetensors', state)
  plans = plans_lib.make(
    config_of(root, references=str(root / 'sd1'), lora=path)
  )
  assert plans.subject.examples.num_models == 2


def verdict(texts, members):
  keep = np.asarray(members, bool)[None]
  return controls.blind_by(
    text_features.describe(texts), keep, np.zeros(1, int),
    np.arange(len(texts)), 0, 40,
  )  # fmt: skip


def test_captions_that_tell_are_told():
  rng = np.random.default_rng(0)
  half = np.arange(60) < 30
  same = [captioned.caption(rng) for _ in range(60)]
  assert not verdict(same, half).shifted
  assert not verdict(['a photo'] * 60, half).shifted
  constant = ['a photo of sks dog' if x else 'a photo of a dog' for x in half]
  assert verdict(constant, half).shifted
  one_side = [
    'sks dog' if x else text for x, text in zip(half, same, strict=True)
  ]
  assert verdict(one_side, half).shifted


def test_captions_that_do_not_tell_are_rarely_told():
  """The p-value of the blind baseline, over splits drawn at random."""
  rng = np.random.default_rng(1)
  low, repeats = 0, 60
  for _ in range(repeats):
    texts = [captioned.caption(rng) for _ in range(40)]
    low += verdict(texts, rng.permutation(40) < 20).p_value <= 0.1
  assert low / repeats <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / repeats)


def test_images_of_one_caption_are_a_group_unless_captions_are_templates():
  texts = [f'Number {k // 2}' for k in range(40)]
  texts[1] = ' number  0'
  joined = sides.join_captions(np.arange(40), texts, 20)
  assert len(np.unique(joined)) == 20 and joined[0] == joined[1]
  group = sides.join_captions(np.arange(40), ['a photo'] * 40, 20)
  assert (group == np.arange(40)).all()
  apart = sides.join_captions(np.arange(3), ['C++', 'C#', '🙂'], 3)
  assert len(np.unique(apart)) == 3


def test_captions_of_odd_folders(tmp_path):
  folder = tmp_path / 'images'
  folder.mkdir()
  names = ('a.png', 'at 3\u202fPM.png', 'b\xa0c.jpg')
  for name in names:
    Image.new('RGB', (8, 8)).save(folder / name)
    (folder / name).with_suffix('.txt').write_text(f'text of {name}')
  (folder / 'metadata.csv').write_text('file_name,group\n' + ''.join(
    f'{name},1\n' for name in names
  ))  # fmt: skip
  read = lambda: captions.of(
    str(folder), image_sets.open_set(str(folder), 'training')
  )
  assert sorted(read()) == sorted(f'text of {name}' for name in names)
  (folder / 'metadata.csv').write_text(
    'file_name,caption\n' + ''.join(f'./{name},"x, {name}"\n' for name in names)
  )
  assert sorted(read()) == sorted(f'x, {name}' for name in names)
  (folder / 'metadata.csv').write_text('file_name,caption\na.png,one, two\n')
  with pytest.raises(inputs.InputError, match='metadata.csv'):
    read()
  (folder / 'metadata.csv').unlink()
  (folder / 'metadata.jsonl').write_text(
    ''.join(
      json.dumps({'file_name': name, 'text': ['x', 'y']}) + '\n'
      for name in names
    )
  )
  with pytest.raises(inputs.InputError, match='row 1: text is no text'):
    read()
  (folder / 'metadata.jsonl').unlink()
  secret = tmp_path / 'secret.txt'
  secret.write_text('secret')
  (folder / 'a.txt').unlink()
  (folder / 'a.txt').symlink_to(secret)
  with pytest.raises(inputs.InputError, match='leads out of the folder'):
    read()
