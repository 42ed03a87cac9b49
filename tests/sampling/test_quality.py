"""quality.csv: copies are near the training half, noise is far from both."""

import dataclasses

from etils import epath
import numpy as np

from jaxdiff.data import datasets
from jaxdiff.report.sections import quality as quality_section
from jaxdiff.runs import blocks, files, layout
from jaxdiff.sampling import quality
from tests import tiny


def test_copies_are_told_from_fresh_images(tmp_path):
  digits = datasets.digits().subset(np.arange(400))
  keep = np.zeros((2, 400), bool)
  keep[0, :200] = keep[1, 200:] = True
  run = layout.Run(epath.Path(tmp_path))
  rng = np.random.default_rng(0)
  for model, rows in ((0, np.arange(200)), (1, np.arange(200))):
    # Model 0 copies its training images, model 1 its control half.
    for start in (0, 64):
      images = digits.images[rng.choice(rows, 64)]
      indices = np.arange(start, start + 64)
      path = run.samples(model, start)
      path.parent.mkdir(parents=True, exist_ok=True)
      blocks.write_block(path, '', model, images=images, indices=indices)
  plan = quality.QualityPlan(
    examples=tiny.examples(digits.images, keep, labels=digits.labels),
    num_samples=128, block_size=64, num_resamples=20, seed=0,
  )  # fmt: skip
  quality.measure(plan, run)
  table = files.read_csv(quality.Paths(run).quality)
  assert set(table['metric']) == {'fd_pca', quality.DISTINCT}
  table = table[table['metric'] == 'fd_pca']
  first = (digits.images.reshape(400, -1)[:, 20:28]).astype(np.float32)
  seen = iter((first, first[:128], first[:128]))
  with_fid = dataclasses.replace(plan, inception=lambda images: next(seen))
  quality.measure(with_fid, run)
  both = files.read_csv(quality.Paths(run).quality)
  assert len(both) == 2 * len(table) + 2
  fid = both[both['metric'] == 'fid']
  assert (fid['low'] <= fid['value']).all()
  assert (fid['value'] < fid['high']).all()
  assert quality_section.quality_table(
    both[both['metric'] != quality.DISTINCT]
  )[0].keys() == {'reference', 'fd_pca', 'fid'}
  assert tuple(table.columns) == quality.COLUMNS
  assert (table['low'] <= table['value']).all()
  assert (table['value'] <= table['high']).all()
  far = table.set_index(['model', 'reference'])['value']
  assert far[0, 'training'] < 0.7 * far[0, 'control']
  assert far[1, 'control'] < 0.7 * far[1, 'training']


def test_a_perfect_generator_is_as_far_as_the_halves_are(tmp_path):
  """Fresh real digits in place of samples."""
  digits = datasets.digits()
  order = np.random.default_rng(0).permutation(1797)
  own, fresh = digits.subset(order[:512]), digits.images[order[512:]]
  keep = np.zeros((4, 512), bool)
  for pair in range(2):
    half = np.random.default_rng(pair).permutation(512)[:256]
    keep[2 * pair, half] = True
    keep[2 * pair + 1] = ~keep[2 * pair]
  run = layout.Run(epath.Path(tmp_path))
  for model in range(4):
    blocks.write_block(
      run.samples(model, 0),
      '',
      model,
      images=fresh[:1024],
      indices=np.arange(1024),
    )
  quality.measure(
    quality.QualityPlan(
      examples=tiny.examples(own.images, keep, labels=own.labels),
      num_samples=1024, block_size=1024, num_resamples=2, seed=0,
    ),
    run,
  )  # fmt: skip
  table = files.read_csv(quality.Paths(run).quality)
  table = table[table['metric'] == 'fd_pca']
  assert (table['num_images'] == 256).all()
  far = table.groupby('reference')['value'].mean()
  assert abs(far['training'] / far['halves'] - 1.0) < 0.1


def test_samples_that_teach_labels_are_told_from_those_that_do_not(tmp_path):
  """Real digits with their labels, with shuffled ones, and noise."""
  digits = datasets.digits()
  own, fresh = (
    digits.subset(np.arange(600)),
    digits.subset(np.arange(600, 1112)),
  )
  keep = np.zeros((3, 600), bool)
  keep[:, :300] = True
  run = layout.Run(epath.Path(tmp_path))
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, fresh.images.shape).astype(np.uint8)
  for model, (images, labels) in enumerate(
    (
      (fresh.images, fresh.labels),
      (fresh.images, rng.permutation(fresh.labels)),
      (noise, fresh.labels),
    )
  ):
    blocks.write_block(
      run.samples(model, 0), '', model, images=images, labels=labels,
      indices=np.arange(512),
    )  # fmt: skip
  plan = quality.QualityPlan(
    examples=tiny.examples(own.images, keep, labels=own.labels),
    num_samples=512, block_size=512, num_resamples=2, seed=0, labelled=True,
  )  # fmt: skip
  quality.measure(plan, run)
  table = files.read_csv(quality.Paths(run).quality)
  found = table[table['metric'] == quality.ACCURACY]
  assert (found['low'] <= found['value']).all()
  value = found.set_index(['model', 'reference'])['value']
  assert value[0, 'control'] > 0.85 and value[0, 'halves'] > 0.75
  assert value[1, 'control'] < 0.3 and value[2, 'control'] < 0.4
  said = quality_section.accuracy(table)
  assert set(said) == {'control', 'halves'}
  plain = dataclasses.replace(plan, labelled=False)
  quality.measure(plain, run)
  table = files.read_csv(quality.Paths(run).quality)
  assert quality.ACCURACY not in set(table['metric'])
