"""k-eidetic counts against a loop over all images."""

import numpy as np
import pandas as pd
import pytest

from jaxdiff.attacks.extraction import eidetic, followups
from jaxdiff.data import datasets
from jaxdiff.data import examples as examples_lib


def naive(chosen, references, delta, shift):
  out = []
  for image in chosen.astype(np.float64):
    count = 0
    for other in references.astype(np.float64):
      height, width = image.shape[:2]
      best = np.inf
      for dy in range(-shift, shift + 1):
        for dx in range(-shift, shift + 1):
          pairs = [
            (image[y, x] - other[y - dy, x - dx]) / 255.0
            for y in range(height)
            for x in range(width)
            if 0 <= y - dy < height and 0 <= x - dx < width
          ]
          best = min(best, np.sqrt(np.square(pairs).mean()))
      count += best <= delta
    out.append(count)
  return out


@pytest.mark.parametrize('shift', [0, 1])
def test_counts_equal_a_naive_loop(shift):
  references = datasets.digits().images[:60]
  chosen = references[::12]
  got = eidetic.counts(chosen, references, 0.22, shift)
  assert got.tolist() == naive(chosen, references, 0.22, shift)
  assert (got >= 1).all() and got.max() > 1


def test_more_duplicates_than_are_looked_at_first_are_all_counted():
  rng = np.random.default_rng(0)
  base = rng.integers(0, 256, (1, 8, 8, 1), np.uint8)
  others = rng.integers(0, 256, (30, 8, 8, 1), np.uint8)
  references = np.concatenate([base.repeat(50, axis=0), others])
  chosen = np.concatenate([base, others[:1]])
  assert eidetic.counts(chosen, references, 0.05).tolist() == [50, 1]


def test_crops_of_one_source_are_copies_where_shifts_are_allowed():
  source = np.random.default_rng(1).integers(0, 256, (9, 12, 3), np.uint8)
  crops = np.stack([source[:, i : i + 9] for i in range(4)])
  assert eidetic.counts(crops[1:2], crops, 0.01).tolist() == [1]
  assert eidetic.counts(crops[1:2], crops, 0.01, shift=1).tolist() == [3]


@pytest.mark.parametrize(('pairs', 'spread'), [(1, 0.0), (4, 0.0), (4, 0.5)])
def test_intervals_of_recall_hold_what_they_say(pairs, spread):
  """Over images drawn anew, some more often given away than others."""
  rng = np.random.default_rng(pairs)
  images, repeats, rate = 24, 300, 0.4
  missed = 0
  for _ in range(repeats):
    half = rng.permutation(images) < images // 2
    keep = np.stack([half, ~half] * pairs)
    own = np.clip(rate + spread * rng.uniform(-0.8, 0.8, images), 0.0, 1.0)
    found = keep & (rng.random(keep.shape) < own[None])
    examples = examples_lib.Examples(
      images=np.zeros((images, 1, 1, 1), np.uint8),
      labels=np.zeros(images, np.int32), num_classes=1, cond=None,
      group=np.arange(images), image=np.arange(images), keep=keep,
      left_out=np.arange(2 * pairs) // 2,
    )  # fmt: skip
    model, index = np.nonzero(found)
    matches = pd.DataFrame(
      {'setting': 'paper', 'half': 'training', 'model': model, 'index': index}
    )
    (row,) = followups.recall(examples, matches, ['paper']).itertuples()
    missed += not row.low <= rate <= row.high
  # 5 %, and three standard deviations of so many repetitions.
  assert missed / repeats <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)


def test_recall_by_copies_is_counted_one_by_one():
  rng = np.random.default_rng(0)
  image = np.repeat(np.arange(30), rng.choice([1, 2, 4], 30))
  keep = np.stack([np.isin(image, chosen) for chosen in (
    np.arange(0, 30, 2), np.arange(1, 30, 2), np.arange(0, 30, 3),
  )])  # fmt: skip
  count = len(image)
  examples = examples_lib.Examples(
    images=np.zeros((count, 1, 1, 1), np.uint8),
    labels=np.zeros(count, np.int32), num_classes=1, cond=None, group=image,
    image=image, keep=keep, left_out=np.arange(3),
  )  # fmt: skip
  given = [
    (setting, model, half, index)
    for setting in ('paper', 'controlled')
    for model in range(3)
    for half in ('training', 'control')
    for index in rng.choice(count, 12, replace=False)
    if keep[model, index] == (half == 'training')
  ]
  matches = pd.DataFrame(given, columns=['setting', 'model', 'half', 'index'])
  table = followups.recall(examples, matches, ['paper', 'controlled'])
  for row in table.itertuples():
    shares = []
    for number in range(30):
      if (image == number).sum() != row.copies:
        continue
      found = [
        any(
          (row.setting, model, 'training', index) in given
          for index in np.flatnonzero(image == number)
        )
        for model in range(3)
        if keep[model, image == number].all()
      ]
      shares += [np.mean(found)] if found else []
    assert row.images == len(shares)
    assert row.value == pytest.approx(np.mean(shares))
    assert row.low <= row.value <= row.high
  assert set(table['copies']) <= {1, 2, 4} and len(table) > 3
