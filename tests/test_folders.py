"""A folder of generated images beside its training images, to its report."""

import json
import os
import subprocess
import sys

import jsonschema
import numpy as np
import pandas as pd
from PIL import Image
import pytest
from sklearn import datasets

from configs import folders as folders_config
from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.pipeline import stages
from jaxdiff.report import document
from jaxdiff.runs import files
from jaxdiff.runtime import preemption
from tests import processes, tiny

pytestmark = pytest.mark.slow

COPIES = 30


@pytest.fixture(scope='module')
def images():
  """Digits: 300 trained on, 300 held out, 700 of others, no near-duplicates."""
  digits = datasets.load_digits().images
  pixels = np.round(digits * (255.0 / 16.0)).astype(np.uint8)
  rows = np.random.default_rng(0).permutation(len(pixels))
  return np.split(pixels[rows][:1300], (300, 600))


def tables_of(folder):
  """Digests of all files but the log."""
  return {
    name: digest
    for name, digest in tiny.digests(folder).items()
    if not name.startswith('logs/')
  }


def save(folder, pixels, kind='png', **options):
  folder.mkdir(parents=True)
  for number, image in enumerate(pixels):
    Image.fromarray(image).save(folder / f'{number:05d}.{kind}', **options)
  return str(folder)


def config_of(**keys):
  config = folders_config.get_config()
  config.membership.num_resamples = 40
  config.sample.block_size = 128
  # Of a copy, the nearest sample alone is near.
  config.nearest_sample.neighbours = 1
  for key, value in keys.items():
    config[key] = value
  return config


@pytest.fixture(scope='module')
def brought(tmp_path_factory, images):
  """A generator that copies 30 training images among 400 new ones."""
  training, holdout, new = images
  root = tmp_path_factory.mktemp('brought')
  generated = np.concatenate([new[:400], training[:COPIES]])
  # In the order of a hash, as folders of many programs are.
  order = np.random.default_rng(1).permutation(len(generated))
  return {
    'generated': save(root / 'generated', generated[order]),
    'training': save(root / 'training', training),
    'holdout': save(root / 'holdout', holdout),
    'references': ','.join(
      save(root / f'reference{k}', new[400 + 100 * k : 500 + 100 * k])
      for k in range(3)
    ),
  }


@pytest.fixture(scope='module')
def finished(tmp_path_factory, brought):
  folder = tmp_path_factory.mktemp('audit') / 'run'
  return stages.run_stages(
    config_of(**brought), str(folder),
    fail_if=('extraction.precision >= 0.5', 'extraction.extracted > 1000'),
  ), folder  # fmt: skip


def test_pairs_go_by_the_names_of_their_files(finished):
  run, _ = finished
  paths = extraction_paths.Paths(run)
  pairs, matches = files.read_csv(paths.named), files.read_csv(paths.matches)
  assert len(pairs) == len(matches)
  source = files.read_csv(run.examples)['source']
  pd.testing.assert_series_equal(
    pairs['image'], source[matches['index']], check_names=False,
    check_index=False,
  )  # fmt: skip
  first = pairs[(pairs['setting'] == 'controlled') & (pairs['rank'] == 1)]
  assert first['distance'].item() == 0.0 and first['copies'].item() >= 1
  copies = pairs[(pairs['setting'] == 'controlled') & (pairs['distance'] == 0)]
  assert len(copies) == COPIES and copies['sample'].str.endswith('.png').all()
  text = run.report.read_text()
  assert f'are in <a href="extraction/{paths.named.name}">' in text
  assert all(name.removeprefix('training/') in text for name in copies['image'])


def test_planted_copies_are_found_and_hardly_anything_else(finished):
  run, _ = finished
  matches = files.read_csv(run.path / 'extraction' / 'matches.csv')
  found = matches[matches['setting'] == 'controlled']
  assert set(found['half']) == {'training'}
  sources = files.read_csv(run.examples)['source']
  assert set(sources[found['index']]) >= {
    f'training/{number:05d}.png' for number in range(COPIES)
  }
  # One false find is expected; five have a chance of 1 in 32.
  assert len(found) < COPIES + 5
  assert (found['distance'] == 0.0).sum() == COPIES
  summary = files.read_csv(run.path / 'extraction' / 'summary.csv')
  rows = summary[
    (summary['setting'] == 'controlled') & (summary['target'] == 'pooled')
  ].set_index('metric')
  assert rows.loc['control_hits', 'value'] == 0
  assert rows.loc['precision', 'low'] > 0.8
  # One accident is expected, though the control shows none.
  assert rows.loc['precision', 'value'] == pytest.approx(1.0 - 1.0 / len(found))


def test_copies_are_found_by_tiles(tmp_path, brought):
  config = config_of(
    **{key: brought[key] for key in ('generated', 'training', 'holdout')}
  )
  config.extraction.tiles = 3
  config.image_size = 8
  with pytest.raises(inputs.InputError, match='multiple of extraction.tiles'):
    plans_lib.check(config)
  config.image_size = 0
  run = stages.run_stages(config, str(tmp_path / 'run'))
  assert stages.opened(config, str(run.path))[0].dataset.images.shape[1] == 6
  matches = files.read_csv(run.path / 'extraction' / 'matches.csv')
  found = matches[matches['setting'] == 'controlled']
  assert (found['distance'] == 0.0).sum() == COPIES
  assert len(found) < COPIES + 5
  assert '3 x 3 tiles' in run.report.read_text()


def test_membership_from_samples_is_calibrated_by_references(finished):
  run, _ = finished
  table = files.read_csv(run.path / 'nearest_sample' / 'comparison.csv')
  assert set(table['attack']) == {'threshold', 'offline_lira', 'offline_rmia'}
  best = table.set_index('attack')
  # A tenth of the members is copied, the rest is chance.
  assert best.loc['offline_rmia', 'auc'] > 0.52
  assert best.loc['offline_rmia', 'tpr@fpr=0.01'] > 0.08
  scores = files.read_csv(run.path / 'nearest_sample' / 'scores.csv')
  assert set(scores['model']) == {0} and len(scores) == 3 * 600


def test_report_and_document_say_what_was_done_and_what_not(finished):
  run, _ = finished
  text = run.report.read_text()
  assert 'The generated images give away' in text
  assert '430 generated images beside 300 training images' in text
  assert 'samples of 3 reference models' in text
  assert 'inpainting: it needs a noise predictor' in text
  assert 'measured elsewhere' not in text
  found = json.loads(run.document.read_text())
  jsonschema.Draft202012Validator.check_schema(document.published_schema())
  jsonschema.Draft202012Validator(document.published_schema()).validate(found)
  assert [row['status'] for row in found['policies']] == ['fail', 'pass']
  fields = {row['field'] for row in found['metrics']}
  assert {'extraction.precision', 'nearest_sample.offline_rmia.auc'} <= fields
  # Where things lie on this machine is nobody's business.
  assert str(run.path.parent) not in run.document.read_text()


def test_the_same_command_again_changes_nothing(finished, brought):
  _, folder = finished
  before = tables_of(folder)
  stages.run_stages(
    config_of(**brought), str(folder),
    fail_if=('extraction.precision >= 0.5', 'extraction.extracted > 1000'),
  )  # fmt: skip
  assert tables_of(folder) == before


def test_other_samples_are_refused(finished, brought, tmp_path, images):
  _, folder = finished
  other = save(tmp_path / 'other', images[2][:200])
  with pytest.raises(inputs.InputError, match='another generated'):
    stages.run_stages(config_of(**brought | {'generated': other}), str(folder))


def test_blocks_and_formats_change_nothing(finished, brought, tmp_path, images):
  """An npz is the folder; blocks are a matter of files alone."""
  run, _ = finished
  training, holdout, _ = images
  np.savez(tmp_path / 'training.npz', x=training)
  (tmp_path / 'holdout').mkdir()
  np.save(tmp_path / 'holdout' / 'images.npy', holdout[..., None])
  config = config_of(
    **brought
    | {
      'training': str(tmp_path / 'training.npz'),
      'holdout': str(tmp_path / 'holdout'),
    }
  )
  config.sample.block_size = 100
  again = stages.run_stages(config, str(tmp_path / 'run'))
  for name in ('extraction/summary.csv', 'extraction/matches.csv',
               'nearest_sample/summary.csv'):  # fmt: skip
    assert (run.path / name).read_bytes() == (again.path / name).read_bytes()


def test_without_a_hold_out_nothing_is_said_of_precision(
  brought, tmp_path, images
):
  config = config_of(
    generated=brought['generated'], training=brought['training']
  )
  run = stages.run_stages(config, str(tmp_path / 'run'))
  summary = files.read_csv(run.path / 'extraction' / 'summary.csv')
  assert set(summary['setting']) == {'paper'}
  pooled = summary[summary['target'] == 'pooled'].set_index('metric')
  assert pooled.loc['extracted', 'value'] >= COPIES
  assert np.isnan(pooled.loc['precision', 'value'])
  text = run.report.read_text()
  assert 'cannot be said without held-out images' in text
  assert 'images that were not trained on, which a folder' in text
  assert not (run.path / 'nearest_sample').exists()


def test_a_generator_that_copies_nothing_is_cleared(tmp_path, images):
  """Not one alarm in twenty generators, near-duplicates in training or not."""
  training, holdout, new = images
  rng = np.random.default_rng(5)
  alarms = 0
  for number in range(6):
    rows = rng.permutation(600)
    both = np.concatenate([training, holdout])[rows]
    near = both[:300].astype(int)
    if number % 2:
      # A tenth of the training images twice, with a little noise.
      near[30:60] = np.clip(near[:30] + rng.integers(-2, 3, (30, 8, 8)), 0, 255)
    for name, pixels in (
      ('training', near.astype(np.uint8)), ('holdout', both[300:]),
    ):  # fmt: skip
      np.savez(tmp_path / f'{name}{number}.npz', images=pixels)
    drawn = new[rng.permutation(len(new))[:400]]
    np.savez(tmp_path / f'generated{number}.npz', images=drawn)
    config = config_of(
      **{
        name: str(tmp_path / f'{name}{number}.npz')
        for name in ('generated', 'training', 'holdout')
      }
    )
    config.quality.inception = ''
    run = stages.run_stages(
      config, str(tmp_path / f'run{number}'), ('sample', 'attack')
    )
    summary = files.read_csv(run.path / 'extraction' / 'summary.csv')
    found = summary[
      (summary['setting'] == 'controlled') & (summary['metric'] == 'extracted')
    ]
    alarms += int((found['value'] > 0).any())
  assert alarms == 0


def test_images_on_both_sides_are_left_out_and_listed(tmp_path, images):
  training, holdout, new = images
  mixed = np.concatenate([holdout[:200], training[:20]])
  config = config_of(
    generated=save(tmp_path / 'generated', new[:100]),
    training=save(tmp_path / 'training', training),
    holdout=save(tmp_path / 'holdout', mixed),
  )
  run = stages.run_stages(config, str(tmp_path / 'run'))
  skipped = files.read_csv(run.skipped)
  # Of either side: nobody can tell why such an image was drawn.
  assert len(skipped) == 40
  assert set(skipped['reason']) == {'in training and hold-out, or a copy of it'}
  assert len(files.read_csv(run.examples)) == 480
  # The near-duplicates are not looked for again.
  before = tables_of(tmp_path / 'run')
  stages.run_stages(config, str(tmp_path / 'run'))
  assert tables_of(tmp_path / 'run') == before


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'generated': ''}, 'generated: name a folder'),
    ({'training': '/nowhere'}, 'training: no file or folder'),
    ({'holdout': ''}, 'references: membership is measured between'),
    ({'channels': 2}, 'channels: 2'),
    ({'generated': 'pickle.pt'}, 'never opened.*numpy.savez'),
    ({'generated': 'words.txt'}, 'neither a folder of images nor an .npz'),
    ({'holdout': 'training'}, 'holdout: .* is training too'),
    ({'references': 'generated'}, 'references: number 1 is generated itself'),
    ({'generated': 'broken'}, 'generated: 00001.png: no whole image'),
    ({'generated': 'empty'}, 'generated: .*holds no image'),
    ({'training': 'few'}, 'training: 3 images are too few'),
  ],
)
def test_what_cannot_be_audited_is_one_line(
  tmp_path, brought, images, change, message
):
  (tmp_path / 'pickle.pt').write_bytes(b'cos\nsystem\n.')
  (tmp_path / 'words.txt').write_text('x')
  (tmp_path / 'empty').mkdir()
  save(tmp_path / 'few', images[0][:3])
  save(tmp_path / 'broken', images[2][:3])
  (tmp_path / 'broken' / '00001.png').write_bytes(b'\x89PNG\r\n\x1a\nxxx')
  ((key, value),) = change.items()
  if value in ('training', 'generated'):
    value = brought[value]
  elif isinstance(value, str) and value and not value.startswith('/'):
    value = str(tmp_path / value)
  with pytest.raises(inputs.InputError, match=message) as error:
    stages.run_stages(
      config_of(**brought | {key: value}), str(tmp_path / 'run')
    )
  assert len(str(error.value).splitlines()) == 1


def test_broken_files_are_left_out_where_that_is_asked_for(
  tmp_path, brought, images
):
  save(tmp_path / 'some', images[2][:50])
  (tmp_path / 'some' / '00007.png').write_bytes(b'x')
  config = config_of(
    **brought | {'generated': str(tmp_path / 'some'), 'skip_broken': True}
  )
  run = stages.run_stages(config, str(tmp_path / 'run'), ('sample',))
  skipped = files.read_csv(run.skipped)
  assert list(skipped['source']) == ['generated/00007.png']
  block = files.read_npz(run.samples(0, 0), 'images')
  assert len(block['images']) == 49


def test_a_reading_that_is_stopped_goes_on_where_it_was(
  tmp_path, brought, monkeypatch
):
  asked = iter([False, True, True, *[False] * 50])
  monkeypatch.setattr(preemption, 'asked', lambda: next(asked))
  config = config_of(**brought)
  with pytest.raises(preemption.Preempted):
    stages.run_stages(config, str(tmp_path / 'run'), ('sample',))
  there = sorted((tmp_path / 'run').rglob('samples/**/*.npz'))
  assert 0 < len(there) < 7
  times = {path: path.stat().st_mtime_ns for path in there}
  stages.run_stages(config, str(tmp_path / 'run'), ('sample',))
  assert len(list((tmp_path / 'run').rglob('samples/**/*.npz'))) == 7
  assert {path: path.stat().st_mtime_ns for path in there} == times


@pytest.mark.slow
def test_the_command_ends_with_3_where_a_policy_is_not_met(tmp_path, brought):
  def launch(*flags):
    return subprocess.run(
      [sys.executable, '-m', 'launch.audit', '--config=configs/folders.py',
       *(f'--config.{key}={value}' for key, value in brought.items()),
       '--config.membership.num_resamples=40',
       f'--workdir={tmp_path / "run"}', *flags],
      cwd=processes.ROOT, capture_output=True, text=True, check=False,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip

  refused = launch('--fail_if=extraction.precison > 1')
  assert refused.returncode == 2 and not (tmp_path / 'run').exists()
  assert 'will have no extraction.precison' in refused.stderr
  leaks = launch('--fail_if=extraction.precision >= 0.5', '--parquet')
  assert leaks.returncode == 3, leaks.stderr
  assert 'policy not met: extraction.precision >= 0.5 (fail)' in leaks.stderr
  assert (tmp_path / 'run' / 'report.html').exists()
  tables = json.loads((tmp_path / 'run' / 'tables.json').read_text())
  for name in tables:
    path = tmp_path / 'run' / name
    parquet = pd.read_parquet(path.with_suffix('.parquet'))
    # Cell by cell, as text: what is a number in one is in the other.
    assert parquet.to_csv(index=False, float_format='%.9g') == path.read_text()
  # What is there is not left behind by another report.
  old = tmp_path / 'run' / 'extraction' / 'summary.parquet'
  whole = old.read_bytes()
  old.write_bytes(b'')
  fine = launch('--fail_if=extraction.extracted >= 1000')
  assert fine.returncode == 0, fine.stderr
  assert old.read_bytes() == whole


def test_two_processes_write_the_tables_of_one(tmp_path, brought, images):
  training, holdout, new = images
  shown = np.concatenate([new[:150], training[:90]])
  for prompt in range(20):
    save(tmp_path / 'byprompt' / f'{prompt:02d}', shown[prompt::20])
  rng = np.random.default_rng(2)
  project = rng.normal(size=(64, 16)).astype(np.float32)
  arrays = {'training': training, 'holdout': holdout}
  for key, pixels in arrays.items():
    arrays[key] = pixels.reshape(-1, 64).astype(np.float32) @ project
  rows = [row for prompt in range(20) for row in range(prompt, 240, 20)]
  names = [f'{i % 20:02d}/{i // 20:05d}.png' for i in rows]
  np.savez(
    tmp_path / 'e.npz', **arrays, generated_names=np.array(names),
    generated=shown[rows].reshape(-1, 64).astype(np.float32) @ project,
  )  # fmt: skip
  keys = brought | {
    'generated': str(tmp_path / 'byprompt'), 'prompts.of': 'folders',
    'second_opinion.embeddings': str(tmp_path / 'e.npz'),
    'sample.block_size': 64, 'membership.num_resamples': 40,
  }  # fmt: skip

  def start(name, number, *flags):
    with open(tmp_path / f'{name}.{number}.log', 'w') as log:
      return subprocess.Popen(
        [sys.executable, '-m', 'launch.audit', '--config=configs/folders.py',
         *(f'--config.{key}={value}' for key, value in keys.items()),
         f'--workdir={tmp_path / name}', *flags],
        cwd=processes.ROOT, stdout=log, stderr=subprocess.STDOUT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      )  # fmt: skip

  def wait(name, running):
    codes = [process.wait(timeout=300) for process in running]
    said = [x.read_text() for x in tmp_path.glob(f'{name}.*.log')]
    assert codes == [0] * len(running), said

  address = processes.free_address()
  both = [
    start(
      'two', number, f'--coordinator={address}', '--num_processes=2',
      f'--process_id={number}', '--cpu_devices=1',
    )
    for number in range(2)
  ]  # fmt: skip
  wait('two', both)
  wait('one', [start('one', 0, '--cpu_devices=2')])
  tables = {
    name: digest
    for name, digest in tables_of(tmp_path / 'one').items()
    if name.endswith('.csv')
  }
  assert {'prompts/prompts.csv', 'nearest_sample/comparison.csv'} <= set(tables)
  assert len(tables) > 12
  two = tables_of(tmp_path / 'two')
  assert {name: two[name] for name in tables} == tables
