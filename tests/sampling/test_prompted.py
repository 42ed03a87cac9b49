"""Images by prompt and seed: the same whatever else is asked for, and how."""

import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
import time

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from PIL import Image
import pytest
from safetensors import numpy as safetensors_numpy

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.extraction import by_prompt
from jaxdiff.data.readers import prompt_lists
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.interop import pipeline as interop
from jaxdiff.pipeline import stages
from jaxdiff.runs import files, layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import prng
from jaxdiff.sampling import prompted, text_to_image
from tests import captioned, processes, tiny
from tests.interop import test_pipeline as folders

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp('prompted')
  for kind in folders.KINDS:
    folders.write(folder / kind, kind)
  (folder / 'prompts.txt').write_text('\n'.join(captioned.PROMPTS))
  return folder


def plan_of(root, kind, **keys):
  config = captioned.config_of(
    root / kind, prompts=str(root / 'prompts.txt'), **keys
  )
  return plans_lib.make(config).subject.prompted


def drawn(plan, indices, devices=1):
  """x0 float32 [S, H, W, C] of the target."""
  run = layout.Run(layout.folder('/nowhere'))
  (block,) = plan.ensemble.blocks(run)
  mesh = mesh_lib.make(1, jax.devices()[:devices])
  params = plan.ensemble.restore(block, mesh)
  sampler = prompted.make_sampler(plan, mesh)
  return sampler(params, np.zeros(1, np.int64), np.asarray(indices))[0]


@functools.cache
def naive_of(folder):
  """(prompt, key) -> one image by itself, from the parts of its folder."""
  found = interop.read(folder)
  params = [part.params() for part in found.text_encoders]
  nets = [part.net for part in found.text_encoders]
  size = [found.scale * side for side in found.sample_size]

  denoiser, coder = found.denoiser.params(), found.autoencoder.params()
  scheduler = found.scheduler

  def encoded(tokens):
    cond = text_to_image.encode(nets, params, tokens)
    return text_to_image.with_sizes(cond, *size) if len(nets) > 1 else cond

  @jax.jit
  def image_of(key, tokens, empty):
    noise = steps_lib.noise(
      key[None], jnp.asarray(1000), (*found.sample_size, 4)
    )
    null = jax.tree.map(lambda leaf: leaf[0], encoded(empty))
    latents = text_to_image.denoise(
      found.denoiser.net, denoiser, noise * scheduler.start(4),
      key[None], encoded(tokens),
      text_to_image.null_of(null, found.zeros_for_empty),
      schedule=scheduler.schedule, guidance_scale=3.0, num_steps=4,
      prediction_type=scheduler.prediction_type, sampler=scheduler.sampler,
      **scheduler.options,
    )  # fmt: skip
    return text_to_image.decode(
      found.autoencoder.net, coder, latents, found.scaling_factor,
      found.shift_factor,
    )[0]  # fmt: skip

  tokens_of = lambda text: [words([text]) for words in found.tokenizers]
  return lambda text, key: image_of(key, tokens_of(text), tokens_of(''))


def naive(folder, prompt, seed):
  key = jax.random.fold_in(prng.root(0, 'sampling'), 0)
  for word in (*prompted.words_of([prompt])[0], seed):
    key = jax.random.fold_in(key, int(word))
  return naive_of(folder)(prompt, key)


@pytest.mark.parametrize('kind', folders.KINDS)
def test_images_are_those_of_each_prompt_by_itself(root, kind):
  plan = plan_of(root, kind)
  images = drawn(plan, range(6))
  assert plan.num_samples == 6 and images.shape == (6, *plan.image_shape)
  for index in range(6):
    prompt = captioned.PROMPTS[index % 3]
    want = naive(str(root / kind), prompt, index // 3)
    np.testing.assert_allclose(images[index], want, atol=1e-4)


def test_no_batch_order_or_layout_changes_an_image(root):
  plan = plan_of(root, 'sd1')
  images = drawn(plan, range(6))
  # The same bits where a batch has the same place; others, to rounding.
  some = drawn(plan, [4, 0])
  np.testing.assert_allclose(some, images[[4, 0]], atol=1e-4)
  other = dataclasses.replace(plan, batch_size=8, decode_batch_size=8)
  for devices in (2, 4):
    found = drawn(other, range(6), devices)
    np.testing.assert_allclose(found, images, atol=1e-4)
  assert np.abs(images[0] - images[3]).max() > 0.1  # seeds differ
  assert np.abs(images[0] - images[1]).max() > 0.1  # prompts too


def test_devices_that_keep_a_part_of_the_weights_draw_the_same(
  root, monkeypatch
):
  monkeypatch.setattr(mesh_lib, 'LEAST_CUT', 64)
  plan = plan_of(root, 'sdxl')
  images = drawn(plan, range(4))
  other = plan_of(root, 'sdxl', weights='cut', sample__batch_size=8)
  np.testing.assert_allclose(drawn(other, range(4), 4), images, atol=1e-4)
  run = layout.Run(layout.folder('/nowhere'))
  (block,) = plan.ensemble.blocks(run)
  mesh = mesh_lib.make(1, jax.devices()[:4])

  def held(plan):
    params = plan.ensemble.restore(block, mesh)
    return sum(
      leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(params)
    )

  assert held(other) < 0.5 * held(plan)
  assert not other.cut(mesh_lib.make(1, jax.devices()[:1]))
  assert not plan.cut(mesh)  # nobody knows what memory a CPU's device has


def test_prompts_in_another_order_cut_or_told_twice(root, tmp_path):
  whole = stages.run_stages(
    captioned.config_of(root / 'sd1', prompts=str(root / 'prompts.txt')),
    str(tmp_path / 'whole'), ['sample'],
  )  # fmt: skip
  table = tmp_path / 'cut.csv'
  one, two, three = captioned.PROMPTS
  table.write_text(f'id,prompt\nx,"{three}"\ny,{one}\nz,"{three}"\n')
  cut = stages.run_stages(
    captioned.config_of(root / 'sd1', prompts=str(table), num_seeds=1),
    str(tmp_path / 'cut'), ['sample'],
  )  # fmt: skip
  pictures = prompted.Paths(whole)
  with (
    np.load(whole.samples(0, 4)) as block,
    Image.open(pictures.picture(0, 2, 1)) as picture,
  ):  # sample 5 is the second of the third prompt
    np.testing.assert_array_equal(np.asarray(picture), block['images'][1])
  assert len(list((tmp_path / 'whole' / 'pictures').rglob('*.png'))) == 6
  pictures.picture(0, 2, 1).unlink()
  stages.run_stages(
    captioned.config_of(root / 'sd1', prompts=str(root / 'prompts.txt')),
    str(tmp_path / 'whole'), ['sample'],
  )  # fmt: skip
  assert pictures.picture(0, 2, 1).exists()
  listed = files.read_csv(prompted.Paths(cut).prompts)
  assert listed['number'].tolist() == [0, 1, 0]
  assert listed['id'].tolist() == ['x', 'y', 'z']
  with np.load(whole.samples(0, 0)) as a, np.load(cut.samples(0, 0)) as b:
    assert a['images'].dtype == np.uint8 and len(b['images']) == 2
    far = b['images'].astype(int) - a['images'][[2, 0]].astype(int)
  assert np.abs(far).max() <= 1


def test_a_run_grows_by_seeds_and_a_finished_one_does_nothing(root, tmp_path):
  keys = {'prompts': str(root / 'prompts.txt'), 'num_seeds': 2}
  config = captioned.config_of(root / 'sd1', **keys)
  small = stages.run_stages(config, str(tmp_path / 'run'), ['sample'])
  first = small.samples(0, 0).read_bytes()
  assert {x.name for x in (small.path / 'samples' / 'model-000').iterdir()} == {
    '00000000.npz',
    '00000004.npz',
  }
  before = tiny.digests(tmp_path / 'run')
  stages.run_stages(config, str(tmp_path / 'run'), ['sample'])
  assert tiny.digests(tmp_path / 'run') == before
  config.num_seeds = 3
  stages.run_stages(config, str(tmp_path / 'run'), ['sample'])
  assert small.samples(0, 0).read_bytes() == first
  once = stages.run_stages(config, str(tmp_path / 'once'), ['sample'])
  for start in (0, 4, 8):
    with (
      np.load(small.samples(0, start)) as a,
      np.load(once.samples(0, start)) as b,
    ):
      np.testing.assert_array_equal(a['images'], b['images'])


def test_prompts_whose_images_are_copies_are_found(root, tmp_path):
  """A decoder that does not look at latents draws one image."""
  other = shutil.copytree(root / 'sd1', tmp_path / 'other')
  state = safetensors_numpy.load_file(other / folders.VAE)
  state['decoder.conv_in.weight'] *= 0.0
  (other / folders.VAE).write_bytes(safetensors_numpy.save(state))
  keys = {
    'prompts': str(root / 'prompts.txt'), 'sample__num_steps': 2,
    'cliques__min_size': 3, 'num_seeds': 3,
  }  # fmt: skip
  found = {}
  for name, folder in (('same', other), ('differ', root / 'sd1')):
    run = stages.run_stages(
      captioned.config_of(folder, **keys), str(tmp_path / name)
    )
    found[name] = files.read_csv(by_prompt.Paths(run).prompts)
    assert (found[name]['num_images'] == 3).all() and len(found[name]) == 3
  assert (found['same']['clique_size'] == 3).all()
  assert (found['differ']['clique_size'] == 0).all()
  assert set(found['same']['image']) == {f'{k:06d}-0000.png' for k in range(3)}
  # More seeds are compared anew.
  keys['num_seeds'] = 4
  config = captioned.config_of(other, **keys)
  run = stages.run_stages(config, str(tmp_path / 'same'))
  table = files.read_csv(by_prompt.Paths(run).prompts)
  assert (table['clique_size'] == 4).all()
  text = run.report.read_text()
  assert 'data:image/png' in text and '4 of 4' in text
  config.sample.pictures = False
  plans = plans_lib.make(config)
  assert plans.stage('prompts') is None


def launch(root, folder, *more, seeds=24):
  return [
    sys.executable, '-m', 'launch.sample', '--config=configs/pipeline.py',
    f'--config.model={root / "sd1"}', f'--workdir={folder}',
    f'--config.prompts={root / "prompts.txt"}', f'--config.num_seeds={seeds}',
    '--config.sample.num_steps=4', '--config.sample.block_size=4',
    '--config.sample.batch_size=4', *more,
  ]  # fmt: skip


def start(command):
  return subprocess.Popen(
    command, cwd=processes.ROOT, env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
  )  # fmt: skip


def blocks_of(folder):
  return sorted((folder / 'samples' / 'model-000').glob('*.npz'))


def contents(folder):
  out = {}
  for path in blocks_of(folder):
    with np.load(path) as block:
      out[path.name] = block['images']
  return out


def test_killed_and_in_two_processes_the_images_are_the_same(root, tmp_path):
  assert start(launch(root, tmp_path / 'whole')).wait() == 0
  whole = contents(tmp_path / 'whole')
  assert len(whole) == 18
  killed = start(launch(root, tmp_path / 'killed'))
  while killed.poll() is None and not blocks_of(tmp_path / 'killed'):
    time.sleep(0.005)
  killed.send_signal(signal.SIGKILL)
  assert killed.wait() == -signal.SIGKILL
  assert 0 < len(blocks_of(tmp_path / 'killed')) < 18
  assert start(launch(root, tmp_path / 'killed')).wait() == 0
  again = contents(tmp_path / 'killed')
  assert again.keys() == whole.keys()
  for name, images in whole.items():  # same bits on the same layout
    np.testing.assert_array_equal(again[name], images)

  address = processes.free_address()
  both = [
    start(launch(
      root, tmp_path / 'both', f'--coordinator={address}', '--num_processes=2',
      f'--process_id={number}', '--cpu_devices=1', seeds=4,
    ))
    for number in range(2)
  ]  # fmt: skip
  assert [one.wait() for one in both] == [0, 0]
  for name, images in contents(tmp_path / 'both').items():
    far = images.astype(int) - whole[name].astype(int)
    assert np.abs(far).max() <= 1
  assert len(blocks_of(tmp_path / 'both')) == 3


def test_programs_are_three_and_have_the_shapes_of_what_runs(root):
  plan = plan_of(root, 'sdxl')
  found = prompted.programs_of(plan, jax.devices()[:2])
  assert [each.name for each in found] == ['encode', 'denoise', 'decode']
  for program in found:
    program.lower().compile()
  encode, denoise, decode = found
  assert denoise.calls == decode.calls == 2  # blocks of 4 and 2, batches of 4


@pytest.mark.parametrize(
  ('content', 'name', 'words'),
  [
    ('', 'p.txt', 'has no prompt'),
    ('a,b\n1,2\n', 'p.csv', 'column prompt'),
    ('id,prompt\n1,a\n1,b\n', 'p.csv', 'the id 1 is there twice'),
    ('id,prompt\n1,a cat, sitting\n', 'p.csv', 'no whole list'),
    ('prompt\na cat, sitting\n', 'p.csv', 'no whole list'),
    ('prompt,prompt\na,b\n', 'p.csv', 'a column is there twice'),
    ('id,prompt\n1,a\n2,\n', 'p.csv', 'row 2: has no prompt'),
    ('{"prompt": 3}\n', 'p.jsonl', 'row 1: has no prompt'),
    ('{"prompt"', 'p.jsonl', 'no whole list'),
    ('x' * 20_000, 'p.txt', 'row 1: more than'),
    ('a cat', 'p.md', 'is no .txt'),
    (b'\xff\xfe\xff', 'p.txt', 'no whole list'),
    (b'PAR1', 'p.parquet', 'no whole list'),
  ],
)
def test_bad_prompts_are_one_line(root, tmp_path, content, name, words):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  config = captioned.config_of(root / 'sd1', prompts=str(path))
  with pytest.raises(inputs.InputError, match=words) as error:
    plans_lib.make(config)
  assert '\n' not in str(error.value) and 'prompts' in str(error.value)


def test_odd_prompts_are_read_as_one_line_each(tmp_path):
  table = pd.DataFrame(
    {'id': ['x', '007', 'y'], 'text': ['a', 'b\rc\n=d', ' e,"f" ']},
    index=[3, 1, 2],
  )
  table.to_parquet(tmp_path / 'p.parquet')
  table.to_csv(tmp_path / 'p.csv', index=False)
  table.to_json(tmp_path / 'p.jsonl', orient='records', lines=True)
  for kind in ('parquet', 'csv', 'jsonl'):
    found = prompt_lists.read(str(tmp_path / f'p.{kind}'), 'prompts')
    assert found.texts == ('a', 'b c =d', 'e,"f"'), kind
    assert found.table['id'].tolist() == ['x', '007', 'y']
  (tmp_path / 'p.txt').write_bytes(b'a\r\n\r\nb\x0bc\r\n')
  found = prompt_lists.read(str(tmp_path / 'p.txt'), 'prompts')
  assert found.texts == ('a', 'b\x0bc')
  path = epath.Path(tmp_path / 'out.csv')
  files.write_csv(path, pd.DataFrame({'id': ['007'], 'prompt': ['a\r=b()']}))
  files.write_parquet(path)
  back = pd.read_parquet(tmp_path / 'out.parquet')
  assert back['id'].tolist() == ['007'] and len(back) == 1


@pytest.mark.parametrize(
  ('keys', 'words'),
  [
    ({'model': ''}, 'model: name a folder'),
    ({'prompts': ''}, 'prompts: name what is drawn'),
    ({'weights': 'half'}, 'weights: no .half.'),
    ({'dtype': 'float16'}, 'dtype: no .float16.'),
    ({'sample__sampler': 'nope'}, 'sample.sampler'),
    ({'sample__height': 20}, 'sample.height: 20 must be a multiple of'),
    ({'sample__num_steps': 1}, 'sample.num_steps: 1 is not within 2'),
    ({'sample__num_steps': 2000}, 'sample.num_steps'),
    ({'holdout': '/tmp'}, 'holdout: is compared with training'),
    ({'signals__kinds': ('loss', 'gsa')}, 'signals.kinds: gsa'),
    ({'references': '/nowhere'}, 'references: is compared'),
  ],
)
def test_bad_values_are_one_line(root, keys, words):
  keys = {'prompts': str(root / 'prompts.txt')} | keys
  config = captioned.config_of(root / 'sd1', **keys)
  with pytest.raises(inputs.InputError, match=words) as error:
    plans_lib.make(config)
  assert '\n' not in str(error.value)
