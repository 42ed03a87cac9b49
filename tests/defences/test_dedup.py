"""Deduplication against all pairs by NumPy; planted groups; resumed."""

import dataclasses
import itertools
import sys

from etils import epath
import numpy as np
import pandas as pd
from PIL import Image
import pytest

from jaxdiff import inputs
from jaxdiff.data import descriptors, image_sets
from jaxdiff.defences import dedup, dedup_hashes, dedup_join
from jaxdiff.nearest import range_join
from jaxdiff.report import dedup as page
from jaxdiff.runs import files
from tests.attacks.extraction import pdq_stand_in


def plan_of(path, **changes):
  settings = {
    'against': None, 'threshold': 0.02, 'flip': False, 'shift': 0, 'size': 0,
    'keep': 'first',
  }  # fmt: skip
  settings |= changes
  if settings['against'] is not None:
    settings['against'] = image_sets.open_set(
      str(settings['against']), '--against'
    )
  images = image_sets.open_set(str(path), '--images')
  return dedup.DedupPlan(images=images, **settings)


def near(rng, image, distance):
  """A copy of an image at about this distance."""
  noise = rng.normal(size=image.shape)
  noise *= distance * 255 * np.sqrt(noise.size) / np.linalg.norm(noise)
  return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def planted(seed=0, side=12):
  """60 images: a group of copies, a chain, a mirror image, one moved."""
  rng = np.random.default_rng(seed)
  base = rng.integers(40, 216, (40, side, side, 3)).astype(np.uint8)
  rows = [base]
  rows.append(np.repeat(base[:1], 5, axis=0))  # 40 to 44 are 0
  rows.append(np.stack([near(rng, base[1], 0.012) for _ in range(4)]))
  chain = [base[2]]
  for _ in range(6):
    chain.append(near(rng, chain[-1], 0.015))
  rows.append(np.stack(chain[1:]))  # 49 to 54
  rows.append(base[3:4, :, ::-1])  # 55
  rows.append(np.roll(base[4:5], 1, axis=2))  # 56
  rows.append(np.stack([near(rng, base[5], 0.05)] * 2))  # 57, 58: far, alike
  rows.append(near(rng, base[6], 0.001)[None])  # 59
  framed = np.zeros_like(base[7])
  framed[:, 1:] = base[7][:, :-1]
  framed[0] = framed[-1] = 0
  rows.append(framed[None])  # 60: moved, with a frame
  return np.concatenate(rows)


def naive(images, threshold, flip=False, shift=0):
  """All pairs, all versions, in float64."""
  moves = range(-shift, shift + 1)
  side = images.shape[1]

  def part(x, down=0, across=0):
    return (
      x[
        shift + down : side - shift + down,
        shift + across : side - shift + across,
      ].astype(np.float64)
      / 255.0
    )

  out = {}
  for i, j in itertools.combinations(range(len(images)), 2):
    best = min(
      np.sqrt(np.square(part(x, d, a) - part(images[k])).mean())
      for one, k in ((i, j), (j, i))
      for x in ([images[one], images[one][:, ::-1]] if flip else [images[one]])
      for d in moves
      for a in moves
    )
    if best <= threshold:
      out[i, j] = best
  return out


def saved(tmp_path, images, name='set.npz'):
  np.savez(tmp_path / name, images=images)
  return tmp_path / name


@pytest.mark.parametrize(
  'options', [{}, {'flip': True}, {'shift': 1}, {'flip': True, 'shift': 1}]
)
@pytest.mark.parametrize('threshold', [0.0, 0.02])
def test_every_pair_and_no_other(tmp_path, options, threshold):
  images = planted()
  found = dedup.find(
    plan_of(saved(tmp_path, images), threshold=threshold, **options),
    epath.Path(tmp_path / 'out'),
  )
  want = naive(images, threshold, **options)
  count = len(images)
  group = dedup.groups(count, found.pairs)
  rows = pd.DataFrame([*want], columns=['first', 'second'])
  np.testing.assert_array_equal(group, dedup.groups(count, rows))
  assert (group[7] == group[60]) == (options.get('shift', 0) == 1)
  got = {
    (a, b): d for a, b, d in found.pairs.itertuples(index=False, name=None)
  }
  # Copies are joined to the first of their like, not to each other.
  copies = {pair for pair in want if any(40 <= row < 45 for row in pair)}
  assert set(got) <= set(want) and set(want) - set(got) <= copies
  for pair, distance in got.items():
    assert distance == pytest.approx(want[pair], abs=1e-6)


@pytest.mark.parametrize('flip', [False, True])
def test_without_exact_copies_rows_are_those_of_the_set(tmp_path, flip):
  """Distinct images are found by their bytes, in no order of the set."""
  rng = np.random.default_rng(4)
  images = rng.integers(0, 256, (40, 6, 6, 1)).astype(np.uint8)
  images[31] = near(rng, images[5], 0.01)
  images[2] = near(rng, images[17], 0.015)[:, :: -1 if flip else 1]
  plan = plan_of(saved(tmp_path, images), flip=flip)
  found, rows = dedup.write(plan, epath.Path(tmp_path / 'out'))
  pairs = found.pairs[['first', 'second']].to_numpy().tolist()
  assert pairs == [[2, 17], [5, 31]]
  assert np.flatnonzero(rows['kept'] == 0).tolist() == [17, 31]
  assert found.nearest_row[[2, 5, 17, 31]].tolist() == [17, 31, 2, 5]


def test_cells_that_are_lost_are_made_again(tmp_path):
  plan = plan_of(saved(tmp_path, planted()))
  out = epath.Path(tmp_path / 'out')
  whole = dedup.find(plan, out)
  # As if another machine had rounded otherwise.
  order = files.read_npz(out / 'order.npz', 'others', 'asked')
  turned = {name: rows[::-1].copy() for name, rows in order.items()}
  files.write_npz(out / 'order.npz', **turned)
  again = dedup.find(plan, out)
  pd.testing.assert_frame_equal(whole.pairs, again.pairs)
  np.testing.assert_array_equal(whole.nearest_row, again.nearest_row)
  (out / 'order.npz').write_bytes(b'torn')
  again = dedup.find(plan, out)
  pd.testing.assert_frame_equal(whole.pairs, again.pairs)


def test_distances_to_the_nearest_are_exact(tmp_path):
  images = planted()
  found = dedup.find(
    plan_of(saved(tmp_path, images)), epath.Path(tmp_path / 'out')
  )
  x = images.reshape(len(images), -1) / 255.0
  far = np.sqrt(np.square(x[:, None] - x[None]).mean(axis=2))
  np.fill_diagonal(far, np.inf)
  nearest = far.min(axis=1)
  # Twice the threshold is as far as is looked.
  known = nearest <= 0.04
  assert 15 < known.sum() < len(x) - 15
  np.testing.assert_allclose(found.nearest[known], nearest[known], atol=1e-6)
  assert np.isinf(found.nearest[~known]).all()
  assert (found.nearest_row[~known] == -1).all()
  of_row = far[np.flatnonzero(known), found.nearest_row[known]]
  np.testing.assert_allclose(of_row, nearest[known], atol=1e-6)


def test_large_groups_are_whole(tmp_path):
  """More neighbours within reach than are looked at first."""
  rng = np.random.default_rng(1)
  one = rng.integers(60, 190, (6, 6, 1)).astype(np.uint8)
  images = np.stack([near(rng, one, 0.005) for _ in range(150)])
  images = np.concatenate([images, 255 - images[:3]])
  found = dedup.find(
    plan_of(saved(tmp_path, images), threshold=0.015),
    epath.Path(tmp_path / 'out'),
  )
  assert len(found.pairs) == len(naive(images, 0.015))
  assert dedup.groups(len(images), found.pairs).max() >= 1


def test_more_pairs_than_are_held_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(dedup_join, '_MOST_PAIRS', 10)
  plan = plan_of(saved(tmp_path, planted()), threshold=0.03)
  with pytest.raises(inputs.InputError, match='threshold: 0.03 is too large'):
    dedup.find(plan, epath.Path(tmp_path / 'out'))


def test_a_chain_is_one_group(tmp_path):
  images = planted()
  out = epath.Path(tmp_path / 'out')
  plan = plan_of(saved(tmp_path, images))
  _, rows = dedup.write(plan, out)
  group = rows['group'].to_numpy()
  chain = [2, *range(49, 55)]
  assert len(set(group[chain])) == 1
  x = images.reshape(len(images), -1) / 255.0
  assert np.sqrt(np.square(x[2] - x[54]).mean()) > 0.02
  assert rows['kept'].to_numpy()[chain].tolist() == [1] + [0] * 6
  assert rows['copies'][40] == 6 and rows['kept'][57] + rows['kept'][58] == 1
  names = (out / 'kept.txt').read_text().split()
  assert len(names) == rows['kept'].sum() == len(set(group))
  assert len(pd.read_parquet(out / 'pairs.parquet')) == len(
    dedup.find(plan, out).pairs
  )


def test_killed_and_resumed_it_writes_the_same(tmp_path, monkeypatch):
  monkeypatch.setattr(dedup_join, '_BLOCK', 16)
  monkeypatch.setattr(range_join, 'CELL', 16)
  path = saved(tmp_path, planted())
  whole, again = epath.Path(tmp_path / 'a'), epath.Path(tmp_path / 'b')
  dedup.write(plan_of(path), whole)
  dedup.write(plan_of(path), again)
  blocks = sorted((again / 'blocks').iterdir())
  assert len(blocks) == 4
  blocks[1].unlink()
  blocks[2].write_bytes(blocks[2].read_bytes()[:-40])
  asked = []
  own = range_join.RangeJoin.own_pairs
  monkeypatch.setattr(
    range_join.RangeJoin, 'own_pairs',
    lambda self, first, last: asked.append(first) or own(self, first, last),
  )  # fmt: skip
  dedup.write(plan_of(path), again)
  assert asked == [1, 2]
  for name in ('dedup.csv', 'pairs.parquet', 'kept.txt', 'dedup.parquet'):
    assert (whole / name).read_bytes() == (again / name).read_bytes()


def test_images_that_another_set_has_too(tmp_path):
  images = planted()
  rng = np.random.default_rng(2)
  new = np.stack(
    [near(rng, images[7], 0.01), 255 - images[8], images[9], images[10] // 2]
  )
  plan = plan_of(
    saved(tmp_path, new, 'new.npz'), against=saved(tmp_path, images)
  )
  out = epath.Path(tmp_path / 'out')
  found, rows = dedup.write(plan, out)
  assert rows['kept'].tolist() == [0, 1, 0, 1] and 'group' not in rows
  assert found.nearest_row.tolist() == [7, -1, 9, -1]
  assert rows['nearest_distance'].isna().tolist() == [False, True] * 2
  assert found.pairs[['first', 'second']].to_numpy().tolist() == [
    [0, 7], [2, 9],
  ]  # fmt: skip
  text = page.write(plan, found, rows, out).read_text()
  assert 'have a near-duplicate there' in text


def test_what_stays_of_a_group(tmp_path):
  """The first, the largest, or as a file says."""
  rng = np.random.default_rng(3)
  # Smooth, so that it is the same at every size.
  small = np.add.outer(np.arange(8) * 6, np.arange(8) * 9)[..., None]
  small = (small + rng.integers(60, 80, 3)).astype(np.uint8)
  root = tmp_path / 'set'
  root.mkdir()
  for name, scale in (
    ('a', 1),
    ('b', 4),
    ('c', 2),
    ('<d>', 1),
    ('<e>', 1),
  ):
    image = small if name[0] != '<' else 255 - small
    large = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
    Image.fromarray(large).save(root / f'{name}.png')
  order = ('c.png', 'a.png')
  for keep, want in (
    ('first', 'a.png'), ('largest', 'b.png'), ('order', 'c.png'),
  ):  # fmt: skip
    plan = plan_of(root, keep=keep, order=order, size=8, threshold=0.05)
    out = epath.Path(tmp_path / keep)
    found, rows = dedup.write(plan, out)
    names = (out / 'kept.txt').read_text().split()
    assert sorted(names) == sorted(['<d>.png', want])
    text = page.write(plan, found, rows, out).read_text()
    assert '<d>' not in text and '&lt;d&gt;' in text


def test_a_folder_is_of_one_join(tmp_path):
  path = saved(tmp_path, planted())
  out = epath.Path(tmp_path / 'out')
  dedup.write(plan_of(path), out)
  with pytest.raises(inputs.InputError, match='is of another threshold'):
    dedup.write(plan_of(path, threshold=0.03), out)
  other = saved(tmp_path, planted(seed=5), 'other.npz')
  with pytest.raises(inputs.InputError, match='is of another images'):
    dedup.write(plan_of(other), out)
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'photo.png').write_bytes(b'')
  with pytest.raises(inputs.InputError, match='holds something else'):
    dedup.write(plan_of(path), epath.Path(tmp_path / 'mine'))
  with pytest.raises(inputs.InputError, match='leaves nothing of images'):
    dedup.find(plan_of(path, shift=6), epath.Path(tmp_path / 'shift'))
  assert files.read_json(out / 'dedup.json')['threshold'] == 0.02


def pictures(tmp_path, name='set'):
  """Smooth files; copies in other sizes, a mirror image, two plain ones."""
  rng = np.random.default_rng(0)
  root = tmp_path / name
  root.mkdir()

  def picture(size=96):
    noise = Image.fromarray(rng.integers(0, 256, (20, 20, 3)).astype(np.uint8))
    return noise.resize((size, size), Image.Resampling.BICUBIC)

  one = [picture() for _ in range(6)]
  for number, image in enumerate(one):
    image.save(root / f'{number}.png')
  one[0].resize((200, 200), Image.Resampling.BICUBIC).save(root / 'a0.png')
  one[0].save(root / 'b0.jpg', quality=70)
  one[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / 'c1.png')
  for number in range(2):
    Image.new('RGB', (96, 96), (number, 0, 0)).save(root / f'plain{number}.png')
  return root


@pytest.mark.parametrize('flip', [False, True])
def test_hashes_see_other_sizes_and_compressions(tmp_path, monkeypatch, flip):
  monkeypatch.setitem(sys.modules, 'pdqhash', pdq_stand_in)
  plan = plan_of(pictures(tmp_path), pdq=31, flip=flip)
  out = epath.Path(tmp_path / 'out')
  found, rows = dedup.write(plan, out)
  of = rows.set_index('source')
  assert of.loc[['0.png', 'a0.png', 'b0.jpg'], 'group'].nunique() == 1
  assert (of.loc['1.png', 'group'] == of.loc['c1.png', 'group']) == flip
  # Plain pictures have one hash, which says nothing.
  assert (
    found.plain == 2 and (of.loc[['plain0.png', 'plain1.png'], 'kept']).all()
  )
  assert of['kept'].sum() == 11 - 2 - flip
  hashes, says = descriptors.pdq_hashes(plan.images, np.arange(11), flip)
  far = (hashes[:, :, None, :] != hashes[:, 0][None, None]).sum(axis=3)
  far = np.minimum(far.min(axis=1), far.min(axis=1).T).astype(float)
  far[~says] = far[:, ~says] = np.inf
  np.fill_diagonal(far, np.inf)
  nearest = np.where(far.min(axis=1) <= 64, far.min(axis=1), np.inf)
  np.testing.assert_array_equal(found.nearest, nearest)
  want = {tuple(x) for x in np.argwhere(np.triu(far <= 31)).tolist()}
  pairs = found.pairs.itertuples(index=False, name=None)
  got = {(a, b): d for a, b, d in pairs}
  assert got == {pair: far[pair] for pair in got} and got.keys() <= want
  # Equal hashes are joined to the first of their like alone.
  assert all(0.0 in far[list(pair)] for pair in want - got.keys())
  text = page.write(plan, found, rows, out).read_text()
  assert '2 images are so plain' in text and 'PDQ hashes' in text


def test_hashes_go_on_where_they_were_stopped(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pdqhash', pdq_stand_in)
  monkeypatch.setattr(dedup_hashes, '_ROWS', 4)
  root = pictures(tmp_path)
  out = epath.Path(tmp_path / 'out')
  plan = plan_of(root, pdq=31, flip=True)
  whole = dedup.find(plan, out)
  asked = []
  monkeypatch.setattr(
    descriptors, 'pdq_hashes',
    lambda of, rows, mirrored, made=descriptors.pdq_hashes: (
      asked.append(int(rows[0])) or made(of, rows, mirrored)
    ),
  )  # fmt: skip
  (out / 'hashes' / 'images-0000000004.npz').write_bytes(b'torn')
  again = dedup.find(plan, out)
  assert asked == [4]
  pd.testing.assert_frame_equal(whole.pairs, again.pairs)
  for changes in ({'pdq': 30}, {}):
    with pytest.raises(inputs.InputError, match='is of another'):
      dedup.find(plan_of(root, **changes), out)


def test_hashes_against_another_set(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pdqhash', pdq_stand_in)
  root = pictures(tmp_path)
  new = tmp_path / 'new'
  new.mkdir()
  image = Image.open(root / '2.png')
  image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(new / 'a.png')
  Image.open(root / '3.png').resize((80, 80)).save(new / 'b.png')
  Image.new('RGB', (96, 96)).save(new / 'plain.png')
  for flip, kept in ((False, [1, 0, 1]), (True, [0, 0, 1])):
    plan = plan_of(new, against=root, pdq=31, flip=flip)
    _, rows = dedup.write(plan, epath.Path(tmp_path / f'out{flip}'))
    assert rows['kept'].tolist() == kept
    assert rows['nearest_source'].tolist() == [
      '2.png' if flip else '', '3.png', '',
    ]  # fmt: skip


def test_hashes_of_small_images_are_refused(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pdqhash', pdq_stand_in)
  with pytest.raises(inputs.InputError, match='--pdq: images of --images have'):
    dedup.find(
      plan_of(saved(tmp_path, planted()), pdq=31), epath.Path(tmp_path / 'o')
    )
  assert not (tmp_path / 'o').exists()


def test_plain_images_alone_are_all_kept(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pdqhash', pdq_stand_in)
  root, other = tmp_path / 'plain', pictures(tmp_path)
  root.mkdir()
  for number in range(3):
    Image.new('RGB', (96, 96), (number, 0, 0)).save(root / f'{number}.png')
  for name, images, against, kept in (
    ('a', root, None, 3), ('b', root, other, 3), ('c', other, root, 11),
  ):  # fmt: skip
    plan = plan_of(images, against=against, pdq=31)
    out = epath.Path(tmp_path / name)
    found, rows = dedup.write(plan, out)
    assert rows['kept'].sum() == kept and found.pairs.empty
    text = page.write(plan, found, rows, out).read_text()
    assert ('3 images are so plain' in text) == (images is root)
    assert ('3 of the others' in text) == (against is root)


def test_copies_are_shown_as_joined_where_nothing_else_is(tmp_path):
  plan = plan_of(saved(tmp_path, planted()), threshold=0.0)
  out = epath.Path(tmp_path / 'out')
  found, rows = dedup.write(plan, out)
  text = page.write(plan, found, rows, out).read_text()
  assert '<h3>0 to 0: 8 images, joined</h3>' in text


def test_a_broken_image_leaves_the_folder_for_another_try(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'pdqhash', pdq_stand_in)
  root = pictures(tmp_path)
  (root / 'zz.png').write_bytes((root / '0.png').read_bytes()[:300])
  out = epath.Path(tmp_path / 'out')
  with pytest.raises(inputs.InputError, match='zz.png'):
    dedup.find(plan_of(root, pdq=31), out)
  whole = image_sets.open_set(str(root), '--images').whole()
  plan = dataclasses.replace(plan_of(root, pdq=31), images=whole)
  assert len(dedup.find(plan, out).pairs) == 2
