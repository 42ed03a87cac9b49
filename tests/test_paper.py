"""An audit with every attack, tiny: tables, rerun, resume, growth, findings."""

import shutil

from etils import epath
import numpy as np
import pandas as pd
import pytest

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.canaries import paths as canaries_paths
from jaxdiff.attacks.extraction import followups
from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.attacks.inpainting import paths as inpainting_paths
from jaxdiff.attacks.side import paths as side_paths
from jaxdiff.pipeline import dry_run, stages
from jaxdiff.runs import files, layout
from tests import tiny

pytestmark = pytest.mark.slow


def digests(folder):
  """Of evidence, tables and report."""
  return {
    name: digest
    for name, digest in tiny.digests(folder).items()
    if name.endswith(('.npz', '.csv', '.html'))
  }


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('paper') / 'run'
  run = stages.run_stages(tiny.paper(), str(folder))
  return run, folder, digests(folder)


def test_every_table_is_there(finished):
  run, _, _ = finished
  inpainting = inpainting_paths.Paths(run)
  side, canaries = side_paths.Paths(run), canaries_paths.Paths(run)
  extraction = extraction_paths.Paths(run)
  for path in (
    inpainting.images, inpainting.summary, inpainting.examples, side.models,
    side.summary, canaries.canaries, canaries.summary,
    extraction.extrapolation, extraction.eidetic, extraction.overlap,
  ):  # fmt: skip
    assert path.exists(), path
  images = files.read_csv(inpainting_paths.Paths(run).images)
  assert len(images) == 2 * 4 * 2  # masks, models, images
  assert (images.groupby(['pair', 'index', 'mask'])['member'].sum() == 1).all()
  canary = files.read_csv(canaries_paths.Paths(run).canaries)
  # None, one and four copies of two canaries, and coins.
  assert len(canary) == 2 * (3 * 2 + 2 * 4)
  extrapolation = files.read_csv(extraction_paths.Paths(run).extrapolation)
  assert set(extrapolation['target']) == {
    'union',
    *(f'model-{m:03d}' for m in range(4)),
  }
  guided = files.read_csv(side_paths.Paths(run).summary)
  assert set(guided['arm']) == {'plain', 'guided', 'difference'}


def test_canary_models_trained_on_their_own_and_on_all_examples(finished):
  run, _, _ = finished
  plan = plans_lib.make(tiny.paper()).plan('canaries')
  (block,) = plan.train.ensemble.blocks(canaries_paths.Paths(run).planted)
  keep = files.read_npy(block.keep)
  assert keep[:, :64].all() and (keep[:, 64:].sum(axis=0) == 1).all()
  per_model = plan.exposure.canaries.copies.sum(axis=1)
  np.testing.assert_array_equal(keep[:, 64:].sum(axis=1), per_model)


def test_the_report_has_a_section_of_each(finished):
  run, _, _ = finished
  text = run.report.read_text()
  for part in (
    'id="inpainting"', 'id="side"', 'id="canaries"', 'Twice the samples',
    'Do models give away the same images?', 'signed-rank', 'Spearman',
    'Tested: inpainting.', 'Tested: surrogate guidance.', 'Tested: canaries.',
  ):  # fmt: skip
    assert part in text, part
  assert 'http://' not in text and '<script' not in text


def test_a_second_run_changes_no_file(finished):
  _, folder, before = finished
  stages.run_stages(tiny.paper(), str(folder))
  assert digests(folder) == before


def test_what_is_lost_comes_back_to_the_same_bytes(finished, tmp_path):
  _, folder, before = finished
  copy = tmp_path / 'copy'
  shutil.copytree(folder, copy)
  run = layout.Run(epath.Path(copy))
  inpainting_paths.Paths(run).drawn(3, 0).unlink()
  side_paths.Paths(run).surrogates(3, 0).write_bytes(
    side_paths.Paths(run).surrogates(3, 0).read_bytes()[:-30]
  )
  side_paths.Paths(run).guided.samples(3, 0).unlink()
  extraction_paths.Paths(side_paths.Paths(run).guided).neighbours(2, 0).unlink()
  shutil.rmtree(copy / 'canaries' / 'signals')
  shutil.rmtree(copy / 'canaries' / 'models-000-001' / 'checkpoints' / '20')
  canaries_paths.Paths(run).summary.unlink()
  stages.run_stages(tiny.paper(), str(copy))
  assert digests(copy) == before


def test_it_grows_without_touching_what_is_there(finished, tmp_path):
  _, folder, before = finished
  grown = tmp_path / 'grown'
  shutil.copytree(folder, grown)
  stages.run_stages(tiny.paper(num_models=6, num_samples=96), str(grown))
  after = digests(grown)
  for name, digest in before.items():
    # Distances are to all samples, however many these are.
    if name.startswith('nearest_sample/'):
      continue
    if name.endswith('.npz') and 'examples' not in name:
      assert after[name] == digest, name
  images = pd.read_csv(grown / 'inpainting' / 'images.csv')
  assert set(images['pair']) == set(range(3))


def test_a_person_is_heard(finished, tmp_path):
  _, folder, _ = finished
  copy = tmp_path / 'copy'
  shutil.copytree(folder, copy)
  run = layout.Run(epath.Path(copy))
  extraction_paths.Paths(run).annotations.write_text(
    'model,sample,memorised\n0,3,yes\n1,5,No\n'
  )
  stages.run_stages(tiny.paper(), str(copy), ('attack', 'report'))
  table = files.read_csv(extraction_paths.Paths(run).annotated)
  assert set(table['memorised']) <= {0, 1}
  assert 'annotations.csv has 2 verdicts' in run.report.read_text()
  for text, words in (
    ('model,sample\n0,3\n', 'it needs model, sample and memorised'),
    ('model,sample,memorised\n0,3,perhaps\n', "line 2: memorised is 'perhaps'"),
    ('model,sample,memorised\n0,3,yes\n0,3,no\n', 'two verdicts'),
  ):
    extraction_paths.Paths(run).annotations.write_text(text)
    with pytest.raises(inputs.InputError, match=words):
      stages.run_stages(tiny.paper(), str(copy), ('attack',))


def test_two_runs_are_compared_where_their_images_are_the_same(
  finished, tmp_path
):
  _, folder, _ = finished
  copy = tmp_path / 'copy'
  shutil.copytree(folder, copy)
  _, other = stages.opened(tiny.paper(), str(copy))
  plans = plans_lib.make(tiny.paper(extraction__other_run=str(folder)))
  followups.analyse(plans.plan('extraction'), other)
  rows = files.read_csv(extraction_paths.Paths(other).overlap)
  between = rows[rows['kind'] == 'runs']
  assert len(between) == len(set(rows['setting'])) > 0
  # The same models: what one gives away, so does the other.
  assert (between['common'] == between['first_extracted']).all()
  for overrides, words in (
    ({'extraction__other_run': str(folder), 'data__num_examples': 72},
     'other images'),
    ({'extraction__other_run': str(tmp_path / 'none')}, 'no finished audit'),
  ):  # fmt: skip
    with pytest.raises(inputs.InputError, match=words):
      plans_lib.make(tiny.config(**overrides))


@pytest.mark.parametrize(
  ('overrides', 'words'),
  [
    ({'inpainting__masks': ('right',)}, 'inpainting.masks'),
    ({'inpainting__masks': ('left', 'left')}, 'inpainting.masks'),
    ({'inpainting__timestep': 1000}, 'inpainting.timestep'),
    ({'inpainting__num_steps': 1001}, 'inpainting.num_steps'),
    ({'inpainting__num_images': 65}, 'inpainting.num_images: 65 asked'),
    ({'num_models': 3}, 'even num_models'),
    ({'side__num_samples': 30}, 'side.num_samples: 30 must'),
    ({'side__num_learned': 64}, 'must not be above'),
    ({'side__channels': ()}, 'side.channels'),
    ({'canaries__counts': (0, 1)}, 'canaries.counts'),
    ({'canaries__timestep': -1}, 'canaries.timestep'),
    ({'sample__classes': (1,)}, 'sample.classes: only'),
    ({'sample__classes': (10,), 'model__class_conditional': True},
     'no class'),
    ({'extraction__eidetic_shift': 8}, 'eidetic_shift'),
  ],
)  # fmt: skip
def test_bad_values_are_named_before_any_work(overrides, words):
  with pytest.raises(inputs.InputError, match=words):
    plans_lib.make(tiny.paper(**overrides))


def test_a_plan_of_classes_is_followed_and_counted(tmp_path):
  config = tiny.config(
    num_models=2, model__class_conditional=True, sample__classes=(3, 3, 5)
  )
  run = stages.run_stages(config, str(tmp_path / 'run'))
  labels = np.load(run.samples(0, 32))['labels']
  np.testing.assert_array_equal(
    labels[:6], np.array([3, 3, 5])[np.arange(32, 38) % 3]
  )
  rows = files.read_csv(extraction_paths.Paths(run).classes)
  assert set(rows['label']) == {3, 5}
  assert rows.groupby('setting')['num_samples'].sum().eq(128).all()
  assert 'By the class that was asked for' in run.report.read_text()


def test_an_estimate_counts_them():
  plain = dry_run.make(plans_lib.make(tiny.config(num_models=4)))
  every = dry_run.make(plans_lib.make(tiny.paper()))
  for name in ('inpainting', 'side', 'canaries'):
    assert every.costs[name].flops > 0.0
    assert name not in plain.costs
  assert every.costs['train'] == plain.costs['train']
