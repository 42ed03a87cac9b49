"""Copies by other descriptors: thresholds from the background; a control."""

import json
import shutil
import sys

import numpy as np
from PIL import Image
import pytest

from configs import folders as folders_config
from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.extraction import second_opinion
from jaxdiff.data import descriptors
from jaxdiff.pipeline import stages
from jaxdiff.runs import files
from jaxdiff.runtime import preemption
from tests.attacks.extraction import pdq_stand_in

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope='module')
def hashes():
  """Compilers are not everywhere.

  Not by `mock.patch.dict`, which on its way out forgets every module that
  was imported meanwhile: a second copy of matplotlib fails.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, 'pdqhash', pdq_stand_in)
    yield


COPIES = 8


def pictures(rng, count, size=96):
  """Colour pictures with detail at every scale, as photographs have it."""
  out = np.zeros((count, size, size, 3))
  for side in (3, 6, 12, 24, 48):
    for one in out:
      noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
      fine = noise.resize((size, size), Image.Resampling.BICUBIC)
      one += np.asarray(fine, float) / 5.0
  return [Image.fromarray(one.astype(np.uint8)) for one in out]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A generator that shows 8 training images smaller and recompressed."""
  folder = tmp_path_factory.mktemp('opinions')
  rng = np.random.default_rng(0)
  sides = {'training': pictures(rng, 60), 'holdout': pictures(rng, 60)}
  generated = pictures(rng, 60)
  for name, images in (sides | {'generated': generated}).items():
    (folder / name).mkdir()
    for number, image in enumerate(images):
      image.save(folder / name / f'{number:03d}.png')
  for number in range(COPIES):
    image = sides['training'][number].resize((80, 80))
    image.save(folder / 'generated' / f'copy{number}.jpg', quality=60)
  return folder


def config_of(root, **keys):
  config = folders_config.get_config()
  for name in ('generated', 'training', 'holdout'):
    config[name] = str(root / name)
  config.membership.num_resamples = 40
  for key, value in keys.items():
    config.second_opinion[key] = value
  return config


def vectors(root, dims=32):
  """What a network may say: copies are near, others are anywhere."""
  rng = np.random.default_rng(1)
  out = {
    name: rng.normal(size=(len(list((root / name).iterdir())), dims))
    for name in ('generated', 'training', 'holdout')
  }
  # Sorted by name, copies come after the numbers.
  noise = 0.1 * rng.normal(size=(COPIES, dims))
  out['generated'][-COPIES:] = out['training'][:COPIES] + noise
  return {name: x.astype(np.float32) for name, x in out.items()}


@pytest.fixture(scope='module')
def finished(root, tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  np.savez(folder / 'e.npz', **vectors(root))
  config = config_of(root, pdq=True, embeddings=str(folder / 'e.npz'))
  rules = ['embeddings.precision >= 0.9', 'pdq.copied > 0', 'pdq.copied > 9']
  run = stages.run_stages(
    config, str(folder / 'run'),
    fail_if=[f'second_opinion.{rule}' for rule in rules],
  )  # fmt: skip
  return run, config


def test_both_find_the_copies_and_no_held_out_image(finished):
  run, _ = finished
  paths = second_opinion.Paths(run)
  summary = files.read_csv(paths.summary).set_index('descriptor')
  assert set(summary.index) == {'PDQ', 'embeddings'}
  assert (summary['extracted'] == COPIES).all()
  assert (summary['control_hits'] == 0).all()
  assert (summary['precision'] == 1.0).all() and (summary['low'] > 0.3).all()
  assert summary.loc['PDQ', 'threshold'] <= 32
  matches = files.read_csv(paths.matches)
  assert len(matches) == 2 * COPIES
  for row in matches.itertuples():
    number = int(row.image.removeprefix('training/').removesuffix('.png'))
    assert row.sample == f'copy{number}.jpg'
  nearest = matches[matches['descriptor'] == 'embeddings']['distance']
  assert (nearest > 0.95).all() and (nearest <= 1.0).all()
  document = json.loads(run.document.read_text())
  assert [rule['status'] for rule in document['policies']] == [
    'undecided', 'fail', 'pass',
  ]  # fmt: skip
  text = run.report.read_text()
  assert f'By PDQ, {COPIES} training images have a copy' in text


def test_descriptors_that_were_kept_are_not_made_again(finished, monkeypatch):
  run, config = finished
  paths = second_opinion.Paths(run)
  before = paths.matches.read_bytes()
  part = paths.part('PDQ', 1, 0)
  whole = part.read_bytes()
  part.write_bytes(whole[:-20])  # torn
  plan = plans_lib.make(config).plan('second_opinion')
  asked = []
  pdq = plan.descriptors[0]
  describe = lambda which, rows: (
    asked.append(which) or pdq.describe(which, rows)
  )
  counted = descriptors.Descriptor(**{**vars(pdq), 'describe': describe})
  plan = second_opinion.OpinionPlan(
    **{**vars(plan), 'descriptors': (counted, plan.descriptors[1])}
  )
  second_opinion.find(plan, run)
  assert asked == [1]
  assert part.read_bytes() == whole and paths.matches.read_bytes() == before
  part.unlink()
  monkeypatch.setattr(preemption, 'asked', lambda: True)
  with pytest.raises(preemption.Preempted):
    second_opinion.find(plan, run)
  assert part.read_bytes() == whole


def naive(generated, examples, member, image, share):
  """A pair at a time."""
  rms = lambda a, b: np.sqrt(np.mean((a - b) ** 2))
  first = [
    i for i in np.flatnonzero(member)
    if i == min(j for j in np.flatnonzero(member) if image[j] == image[i])
  ]  # fmt: skip
  background = sorted(
    min(rms(examples[i], examples[j]) for j in first if j != i) for i in first
  )
  cut = background[max(1, int(share * (len(first) + 1))) - 1]
  hits = {True: set(), False: set()}
  for one in generated:
    distance = [rms(one, other) for other in examples]
    if min(distance) >= cut:
      continue
    best = min(distance)
    for side in (True, False):
      own = [i for i in range(len(examples)) if member[i] == side]
      near = min(own, key=lambda i: distance[i])
      if distance[near] == best:
        hits[side].add(image[near])
  return cut, hits


@pytest.mark.parametrize('seed', range(4))
def test_hits_are_those_of_a_naive_twin(seed):
  rng = np.random.default_rng(seed)
  # Of bits in few bytes there are many ties.
  examples = (rng.random((30, 12)) < 0.5).astype(np.float32)
  generated = (rng.random((40, 12)) < 0.5).astype(np.float32)
  member = np.arange(30) < 15
  image = np.r_[np.arange(13), 0, 1, np.arange(15) + 20]
  row, table = second_opinion.judge(generated, examples, member, image, 0.3)
  cut, hits = naive(generated, examples, member, image, 0.3)
  assert row['threshold'] == pytest.approx(cut, abs=1e-6)
  assert row['extracted'] == len(hits[True])
  assert row['control_hits'] == len(hits[False])
  for half, side in (('training', True), ('control', False)):
    rows = table[table['half'] == half]
    assert set(image[rows['index']]) == hits[side]
    assert rows['distance'].is_monotonic_increasing
  assert row['num_training'] == 13 and row['num_control'] == 15


@pytest.mark.parametrize('background', [0.0, 0.005, 0.015, 0.02])
def test_fresh_images_are_hit_as_often_as_is_said(background):
  """Also where the closest pair of training images alone is the threshold."""
  hits, said = np.zeros(2), 0.0
  repeats, count = 100, 400
  for seed in range(repeats):
    rng = np.random.default_rng(seed)
    examples = rng.normal(0.5, 0.1, (count, 6)).clip(0, 1).astype(np.float32)
    fresh = rng.normal(0.5, 0.1, (100, 6)).clip(0, 1).astype(np.float32)
    member = np.arange(count) < count // 2
    _, said = second_opinion.threshold(
      examples, member, np.arange(count), background
    )
    row, _ = second_opinion.judge(
      fresh, examples, member, np.arange(count), background
    )
    hits += row['extracted'], row['control_hits']
  assert said <= max(background, 2 / 201)
  # On either side about as many: what is near to both counts for the nearer.
  expected = said * 100 * repeats
  assert 0.75 * expected < hits[0] < 1.2 * expected
  assert abs(hits[0] - hits[1]) < 4 * np.sqrt(hits.sum())


def test_training_images_that_look_the_same_hide_no_copy():
  rng = np.random.default_rng(0)
  examples = rng.random((200, 12)).astype(np.float32)
  examples[1] = examples[0]  # which pixels had not joined
  member = np.arange(200) < 100
  row, table = second_opinion.judge(
    examples[:20], examples, member, np.arange(200), 0.02
  )
  assert row['threshold'] > 0.0 and row['extracted'] >= 19
  assert (table['half'] == 'training').all()
  # Nor do two that rounding alone sets apart.
  examples[1] = examples[0] + np.float32(1e-5)
  assert second_opinion.threshold(
    examples, member, np.arange(200), 0.02
  )[0] < 1e-4 < second_opinion.threshold(
    examples, member, np.arange(200), 0.02, same=1e-3
  )[0]  # fmt: skip
  # Where all look the same there is nothing to tell, and no clean bill.
  examples[:100] = 0.5
  row, _ = second_opinion.judge(
    examples[:20], examples, member, np.arange(200), 0.02
  )
  assert np.isnan(row['background']) and row['extracted'] == 0


def test_a_limit_says_how_many_accidents_it_leaves():
  rng = np.random.default_rng(0)
  bits = (rng.random((300, 256)) < 0.5).astype(np.uint8) * np.uint8(255)
  member = np.arange(300) < 150
  cut, share = second_opinion.threshold(
    bits, member, np.arange(300), 0.01, limit=0.35
  )
  # Hashes of different images differ in a third of their bits, or more.
  assert (cut, share) == (0.35, 0.0)


@pytest.mark.parametrize('side', ['generated', 'training', 'holdout'])
def test_nothing_is_compared_where_all_is_plain(root, tmp_path, side):
  """And finding nothing there is no clean bill."""
  for name in ('generated', 'training', 'holdout'):
    shutil.copytree(root / name, tmp_path / name)
  for number, path in enumerate((tmp_path / side).iterdir()):
    Image.new('RGB', (96, 96), (number, 9, 99)).save(path)
  run = stages.run_stages(
    config_of(tmp_path, pdq=True), str(tmp_path / 'run'),
    fail_if=['second_opinion.pdq.copied > 0'],
  )  # fmt: skip
  (rule,) = json.loads(run.document.read_text())['policies']
  assert rule['status'] == 'undecided'


def test_plain_pictures_are_nobody_s_copies(root, tmp_path):
  """All black pictures have one hash."""
  for name in ('generated', 'training', 'holdout'):
    shutil.copytree(root / name, tmp_path / name)
  for name in ('generated', 'training'):
    Image.new('RGB', (96, 96), (name == 'training',) * 3).save(
      tmp_path / name / 'black.png'
    )
  run = stages.run_stages(
    config_of(tmp_path, pdq=True), str(tmp_path / 'run'), ['sample', 'attack']
  )
  paths = second_opinion.Paths(run)
  row = files.read_csv(paths.summary).iloc[0]
  assert row['plain'] == 2 and row['extracted'] == COPIES
  assert not files.read_csv(paths.matches)['sample'].str.contains('black').any()


def test_without_a_hold_out_nobody_can_say(root, tmp_path):
  config = config_of(root, pdq=True)
  config.holdout = ''
  run = stages.run_stages(config, str(tmp_path / 'run'))
  row = files.read_csv(second_opinion.Paths(run).summary).iloc[0]
  assert row['extracted'] == COPIES and np.isnan(row['precision'])
  text = run.report.read_text()
  assert 'no held-out image tells' in text
  assert 'and 0 held-out images' not in text


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (lambda x: x | {'generated': x['generated'][:-1]}, '67 rows for 68 images'),
    (lambda x: {k: v for k, v in x.items() if k != 'holdout'},
     'has no array holdout'),
    (lambda x: x | {'training': x['training'][:, :5]}, r'have \[5, 32\]'),
    (lambda x: x | {'training': x['training'].astype(int)}, 'not float'),
    (lambda x: x | {'training': 0 * x['training']}, 'row of zeros'),
    (lambda x: x | {'holdout': np.full_like(x['holdout'], np.nan)},
     'not finite'),
    (lambda x: x | {'training_names': np.array(['a'] * 60)}, 'lacks'),
    (lambda x: x | {'training_names': np.arange(60)}, 'lacks 000.png'),
  ],
)  # fmt: skip
def test_embeddings_that_do_not_fit_are_refused(root, tmp_path, change, words):
  np.savez(tmp_path / 'e.npz', **change(vectors(root)))
  with pytest.raises(inputs.InputError, match=words):
    plans_lib.make(config_of(root, embeddings=str(tmp_path / 'e.npz')))


def test_names_put_embeddings_in_any_order(root, tmp_path):
  arrays = vectors(root)
  np.savez(tmp_path / 'one.npz', **arrays)
  order = np.random.default_rng(0).permutation(60)
  names = np.array(sorted(x.name for x in (root / 'training').iterdir()))
  np.savez(
    tmp_path / 'two.npz',
    **arrays
    | {'training': arrays['training'][order], 'training_names': names[order]},
  )
  rows = np.arange(120)
  one, two = (
    plans_lib.make(config_of(root, embeddings=str(tmp_path / f'{name}.npz')))
    .plan('second_opinion')
    .descriptors[0]
    .describe(1, rows)[0]
    for name in ('one', 'two')
  )
  np.testing.assert_array_equal(one, two)


def test_pdq_of_small_images_is_refused(root, tmp_path):
  for name in ('generated', 'training', 'holdout'):
    (tmp_path / name).mkdir()
    rng = np.random.default_rng(len(name))
    for number in range(20):
      Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(
        tmp_path / name / f'{number}.png'
      )
  with pytest.raises(inputs.InputError, match='the pixels themselves say more'):
    plans_lib.make(config_of(tmp_path, pdq=True))


def test_without_the_extra_the_mend_is_said(root, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pdqhash', None)
  with pytest.raises(inputs.InputError, match='pip install pdqhash first'):
    plans_lib.make(config_of(root, pdq=True))


def test_a_pickle_among_the_embeddings_is_not_opened(root, tmp_path):
  np.savez(
    tmp_path / 'e.npz', generated=np.array([{}], dtype=object),
  )  # fmt: skip
  with pytest.raises(inputs.InputError, match='no whole npz'):
    plans_lib.make(config_of(root, embeddings=str(tmp_path / 'e.npz')))
