"""Text-to-image models of a run: trained, drawn from, exported, read back."""

import collections
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import captioned as captioned_config
from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.data import captioned_sets, datasets
from jaxdiff.data.readers import openmoji
from jaxdiff.interop import clip_vocabulary, pipeline, pipeline_folder
from jaxdiff.pipeline import dry_run, stages
from jaxdiff.pipeline import export as pipeline_export
from jaxdiff.runs import files
from jaxdiff.sampling import prompted, text_to_image
from tests import captioned, exported, tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Noise with captions that differ."""
  numbers = iter(range(1000))
  return captioned.write_folder(
    tmp_path_factory.mktemp('captioned') / 'images', 24, 0,
    lambda rng: f'{captioned.caption(rng)}, number {next(numbers)}',
  )  # fmt: skip


def config_of(folder, **keys):
  config = captioned_config.get_config('runlocal')
  config.update_from_flattened_dict({
    'data.name': 'image_folder', 'data.path': str(folder),
    'data.image_size': 8, 'data.num_examples': 0, 'data.apart': 0.0,
    'data.copies': (2, 4), 'data.per_copies': 3, 'num_seeds': 2,
    'model.block_out_channels': (8, 16), 'model.norm_num_groups': 4,
    'text.num_merges': 30, 'text.hidden_size': 16, 'text.length': 24,
    'text.intermediate_size': 32, 'train.num_steps': 4, 'train.batch_size': 8,
    'train.log_every': 2, 'train.checkpoint_every': 2, 'sample.num_steps': 4,
    'sample.batch_size': 16, 'sample.block_size': 16,
    'signals.timesteps': (50, 300), 'signals.draws': 1,
    'membership.timestep': 50, 'membership.num_resamples': 40,
  })  # fmt: skip
  for key, value in keys.items():
    config.update_from_flattened_dict({key.replace('__', '.'): value})
  return config


@pytest.fixture(scope='module')
def finished(folder, tmp_path_factory):
  path = tmp_path_factory.mktemp('run') / 'run'
  return stages.run_stages(config_of(folder), str(path)), path


def test_it_is_trained_drawn_attacked_and_reported(finished, folder):
  run, _ = finished
  table = files.read_csv(run.path / 'membership' / 'comparison.csv')
  assert {'threshold', 'clid', 'quantile'} <= set(table['attack'])
  assert (run.path / 'membership' / 'blind_captions.csv').exists()
  assert (run.path / 'extraction' / 'summary.csv').exists()
  listed = files.read_csv(prompted.Paths(run).prompts)
  assert len(listed) == 24 and listed['prompt'].nunique() == 24
  for model in range(2):
    with np.load(run.samples(model, 0)) as block:
      assert block['images'].shape == (16, 8, 8, 3)
  text = run.report.read_text()
  assert 'Images by prompt' in text and 'captions alone' in text
  # Copies stay on one side of the split.
  plans = plans_lib.make(config_of(folder))
  keep, image = plans.subject.examples.keep, plans.dataset.image
  sizes = collections.Counter(np.bincount(image)[np.unique(image)].tolist())
  assert sizes == {1: 18, 2: 3, 4: 3}
  for number in np.unique(image):
    assert len(np.unique(keep[0, image == number])) == 1
  assert (keep[0] != keep[1]).all()
  # Tokens of captions are those of the vocabulary that is learned from them.
  estimate = dry_run.make(plans)
  assert estimate.units.network_flops > 0
  assert any('operations' in x for x in dry_run.lines(plans, estimate, 0.3))


def test_a_stopped_run_ends_in_the_same_weights_and_images(finished, folder):
  run, path = finished
  again = path.parent / 'again'
  half = config_of(folder)
  stages.run_stages(half, str(again), ['train'])
  (again / 'models-000-001' / 'checkpoints').rename(path.parent / 'kept')
  # The last checkpoint is lost: training goes on from the one before.
  kept = path.parent / 'kept'
  last = max(x.name for x in kept.iterdir() if x.is_dir())
  for part in sorted((kept / last).rglob('*'), reverse=True):
    part.unlink() if part.is_file() else part.rmdir()
  (kept / last).rmdir()
  kept.rename(again / 'models-000-001' / 'checkpoints')
  once = stages.run_stages(half, str(again), ['train', 'sample'])
  for model in range(2):
    for start in (0, 16, 32):
      with (
        np.load(run.samples(model, start)) as a,
        np.load(once.samples(model, start)) as b,
      ):
        np.testing.assert_array_equal(a['images'], b['images'])


def test_an_exported_model_is_a_pipeline_that_draws_the_same(
  finished, folder, tmp_path
):
  run, path = finished
  config = config_of(folder)
  out = tmp_path / 'out'
  pipeline_export.export(config, str(path), 0, str(out))
  with pytest.raises(inputs.InputError, match='exists'):
    pipeline_export.export(config, str(path), 0, str(out))
  found = pipeline.read(str(out))
  assert found.scheduler.options == pipeline_folder.OPTIONS
  assert found.sample_size == (8, 8) and found.scale == 1
  plan = plans_lib.make(config).subject.prompted
  (tmp_path / 'prompts.txt').write_text('\n'.join(plan.texts))
  drawn = stages.run_stages(
    captioned.config_of(
      out, prompts=str(tmp_path / 'prompts.txt'), num_seeds=2,
      sample__num_steps=4, sample__block_size=16,
    ),
    str(tmp_path / 'drawn'), ['sample'],
  )  # fmt: skip
  for start in (0, 16, 32):
    with (
      np.load(run.samples(0, start)) as a, np.load(drawn.samples(0, start)) as b
    ):  # fmt: skip
      far = a['images'].astype(int) - b['images'].astype(int)
    assert np.abs(far).max() <= 1


def test_diffusers_draws_the_same_from_an_exported_folder(tmp_path):
  model = exported.model()
  pipeline_folder.write(str(tmp_path / 'out'), model)
  found = pipeline.read(str(tmp_path / 'out'))
  for part, params in (
    (found.denoiser, model.unet_params),
    (found.text_encoders[0], model.text_params),
  ):
    assert tiny.largest_difference(part.params(), params) == 0.0
  goldens = pathlib.Path(__file__).parent / 'goldens' / 'exported.npz'
  with np.load(goldens) as file:
    noise, want = file['noise'], file['images']
  words = found.tokenizers[0]
  encode = lambda texts: text_to_image.encode(
    [found.text_encoders[0].net], [found.text_encoders[0].params()],
    [jnp.asarray(words(list(texts)))],
  )  # fmt: skip
  null = jax.tree.map(lambda leaf: leaf[0], encode(['']))
  latents = jax.jit(
    lambda noise, cond: text_to_image.denoise(
      found.denoiser.net, found.denoiser.params(), noise,
      jax.random.split(jax.random.key(0), 2), cond, null,
      schedule=found.scheduler.schedule, prediction_type='epsilon',
      guidance_scale=exported.GUIDANCE, sampler='ddim',
      num_steps=exported.STEPS, **found.scheduler.options,
    )
  )(noise, encode(exported.CAPTIONS[:2]))  # fmt: skip
  images = text_to_image.decode(
    found.autoencoder.net, found.autoencoder.params(), latents,
    found.scaling_factor, found.shift_factor,
  )  # fmt: skip
  np.testing.assert_allclose(images / 2 + 0.5, want, atol=1e-3)


@pytest.mark.parametrize('channels', [1, 3])
def test_the_autoencoder_of_a_folder_changes_nothing(channels):
  net = pipeline_folder.unchanging(channels)
  params = pipeline_folder.unchanging_params(net)
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, channels))
  for scale in (1e-3, 1.0):
    encoded = net.apply(params, scale * x, method='encode')
    tolerance = {'rtol': 1e-5, 'atol': 2e-5 * scale}
    np.testing.assert_allclose(encoded.mean, scale * x, **tolerance)
    assert np.abs(encoded.deviation).max() < 1e-6
    decoded = net.apply(params, encoded.mean, method='decode')
    np.testing.assert_allclose(decoded, scale * x, **tolerance)


def naive_merges(words, most):
  """The same by counting everything anew for each pair."""
  parts = {word: [*word[:-1], f'{word[-1]}</w>'] for word in words}
  out = []
  while len(out) < most:
    count = collections.Counter()
    for word, times in words.items():
      for pair in zip(parts[word], parts[word][1:], strict=False):
        count[pair] += times
    if not count:
      break
    pair = sorted(count, key=lambda each: (-count[each], each))[0]
    out.append(pair)
    for word, held in parts.items():
      place = 0
      while place < len(held) - 1:
        if (held[place], held[place + 1]) == pair:
          held[place : place + 2] = [''.join(pair)]
        place += 1
      parts[word] = held
  return out


def test_a_vocabulary_is_learned_by_counting_pairs():
  words = collections.Counter(
    {'aaaa': 3, 'abab': 2, 'banana': 5, 'b': 9, 'cabaret': 1, 'aa': 4}
  )
  for most in (0, 3, 100):
    assert clip_vocabulary._merges(words, most) == naive_merges(words, most)
  captions = ['A cat!', 'a  CAT on the moon', 'naïve 🐈']
  found = clip_vocabulary.learn(captions, 10, 12)
  assert found == clip_vocabulary.learn(captions, 10, 12)
  assert len(found.merges) == 10
  tokenizer = found.tokenizer()
  rows = tokenizer([*captions, 'anything else 東京'])
  assert rows.shape == (4, 12) and (rows < len(found.numbers)).all()
  assert (rows[0] == tokenizer(['a cat!'])[0]).all()


def test_copies_and_distances():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (30, 4, 4, 3)).astype(np.uint8)
  images[7] = images[3]
  images[9] = np.clip(images[3].astype(int) + 2, 0, 255)
  dataset = datasets.make(
    images, np.zeros(30, np.int32), [str(k) for k in range(30)],
    captions=tuple(f'caption {k}' for k in range(30)),
  )  # fmt: skip
  kept = captioned_sets.apart(dataset, 0.05)
  assert {str(k) for k in range(30)} - set(kept.source) == {'7', '9'}
  assert {name for name, _ in kept.skipped} == {'7', '9'}
  several = captioned_sets.with_copies(kept, (2, 5), 4, 0)
  counts = collections.Counter(collections.Counter(several.captions).values())
  assert counts == {1: 20, 2: 4, 5: 4}
  for row, name in enumerate(several.source):
    np.testing.assert_array_equal(several.images[row], images[int(name)])
    assert several.captions[row] == f'caption {name}'
  with pytest.raises(ValueError, match='data.per_copies: 40'):
    captioned_sets.with_copies(kept, (2, 5), 40, 0)


def test_emoji_have_their_pictures_and_names():
  found = openmoji.openmoji(16)
  assert len(found) == len(set(found.captions)) > 1400
  assert found.images.shape[1:] == (16, 16, 3)
  pictures = dict(zip(found.captions, found.images, strict=True))
  assert {'pile of poo', 'cat face', 'black chess pawn'} <= pictures.keys()
  apple, heart = pictures['green apple'], pictures['blue heart']
  assert apple[8, 8, 1] > max(apple[8, 8, 0], apple[8, 8, 2])
  assert heart[8, 8, 2] > heart[8, 8, 0]
  assert (apple[0, 0] == 255).all()
  assert found.fingerprint() == openmoji.openmoji(16).fingerprint()


@pytest.mark.parametrize(
  ('keys', 'words'),
  [
    ({'data__name': 'cifar10'}, 'data.name: no .cifar10.'),
    ({'data__path': ''}, 'data.path: name a folder'),
    ({'data__path': '/nowhere'}, 'data.path'),
    ({'data__image_size': 9}, 'data.image_size: 9 must be a multiple of 2'),
    ({'data__copies': (0,)}, 'data.copies'),
    ({'data__per_copies': 99}, 'data.per_copies: 99'),
    ({'text__num_attention_heads': 3}, 'text.num_attention_heads: 3'),
    ({'model__norm_num_groups': 3}, 'model.norm_num_groups: 3'),
    ({'model__down_block_types': ('DownBlock2D',)}, 'model.down_block_types'),
    ({'train__label_dropout': 0.0}, 'sample.guidance_scale'),
    ({'signals__kinds': ('loss', 'nope')}, 'signals.kinds'),
    ({'sample__num_steps': 5000}, 'sample.num_steps'),
  ],
)
def test_bad_values_are_one_line(folder, keys, words):
  with pytest.raises(inputs.InputError, match=words) as error:
    plans_lib.make(config_of(folder, **keys))
  assert '\n' not in str(error.value)


def test_a_split_needs_groups_and_clid_its_timesteps(tmp_path):
  path = captioned.write_folder(tmp_path / 'images', 24, 0, lambda rng: 'a cat')
  with pytest.raises(inputs.InputError, match='form 1 groups'):
    plans_lib.make(config_of(path))
  with pytest.raises(
    inputs.InputError, match='signals.kinds: clid is for 1000'
  ):
    plans_lib.make(config_of(path, diffusion__num_train_timesteps=500))


def test_images_without_captions_are_named(tmp_path):
  path = captioned.write_folder(tmp_path / 'images', 10, 0)
  table = (path / 'metadata.csv').read_text().splitlines()
  table[4] = table[4].split(',')[0] + ','
  (path / 'metadata.csv').write_text('\n'.join(table))
  with pytest.raises(inputs.InputError, match='3.png has no caption'):
    plans_lib.make(config_of(path))
  (path / 'metadata.csv').unlink()
  for number in range(10):
    (path / f'{number}.txt').write_text(f'picture {number}')
  plans = plans_lib.make(config_of(path))
  assert set(plans.dataset.captions) == {f'picture {k}' for k in range(10)}
