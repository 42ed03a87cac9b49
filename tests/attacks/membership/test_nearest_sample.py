"""Membership from samples: distances against a naive twin, and on oracles."""

from etils import epath
import numpy as np
import pytest

from jaxdiff import inputs
from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership import nearest_sample
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runs import samples as samples_lib
from tests import tiny

K, N = 8, 120


@pytest.fixture(scope='module')
def images():
  """Images with look-alikes, some of them far nearer than others."""
  rng = np.random.default_rng(0)
  shapes = rng.integers(0, 256, (12, 6, 6, 1))
  of = rng.integers(0, 12, 3 * N)
  spread = np.geomspace(4.0, 40.0, 12)[of, None, None, None]
  noise = spread * rng.normal(size=(3 * N, 6, 6, 1))
  return np.clip(shapes[of] + noise, 0, 255).astype(np.uint8)


def plan_for(images, keep, counts, flip=False, neighbours=(1, 3)):
  return nearest_sample.NearestSamplePlan(
    scores=membership_evaluate.MembershipPlan(
      examples=tiny.examples(images, keep, flip=flip),
      timestep=neighbours[-1], transform='none', variance='pooled',
      num_resamples=40, seed=0,
    ),
    samples=samples_lib.Samples(
      num_samples=counts[0], block_size=32, of_others=tuple(counts[1:])
    ),
    neighbours=neighbours,
  )  # fmt: skip


def write_samples(run, samples):
  for model, of_model in enumerate(samples):
    for start in range(0, len(of_model), 32):
      part = of_model[start : start + 32]
      blocks.write_block(
        run.samples(model, start), run.identity, model, images=part,
        indices=np.arange(start, start + len(part)),
      )  # fmt: skip


@pytest.mark.parametrize('flip', [False, True])
def test_signals_are_those_of_a_loop(tmp_path, images, monkeypatch, flip):
  # Several pieces of samples are joined to what one is.
  monkeypatch.setattr(nearest_sample, '_AT_ONCE', 40 * 36)
  run = layout.Run(epath.Path(tmp_path), identity='x')
  samples = [images[N : 2 * N], images[2 * N : 2 * N + 50]]
  samples[0][7] = images[3]
  plan = plan_for(
    images[:N], np.zeros((2, N), bool), [N, 50], flip, neighbours=(1, 3)
  )
  write_samples(run, samples)
  nearest_sample.measure(plan, run)
  for model, drawn in enumerate(samples):
    stored = files.read_npz(
      nearest_sample.Paths(run).distances(model), 'distance'
    )['distance']
    got = nearest_sample.signals_of(stored, (1, 3), 36)
    pool = np.concatenate([drawn, drawn[:, :, ::-1]]) if flip else drawn
    for row in range(N):
      difference = (images[row].astype(float) - pool) / 255.0
      found = np.sort(np.sqrt(np.square(difference).mean(axis=(1, 2, 3))))
      want = [found[0], found[:3].mean()]
      floor = 0.5 / 255.0 / 6.0
      np.testing.assert_allclose(
        got[row], np.log(np.maximum(want, floor)), atol=1e-5
      )
  assert got[3, 0] > np.log(floor)  # the copy is of the first model alone


@pytest.fixture(scope='module')
def attacked(tmp_path_factory, images):
  """Generators that give away a third of what they trained on."""
  run = layout.Run(
    epath.Path(tmp_path_factory.mktemp('attacked')), identity='x'
  )
  rng = np.random.default_rng(1)
  keep = np.zeros((K, N), bool)
  for pair in range(0, K, 2):
    keep[pair, rng.permutation(N)[: N // 2]] = True
    keep[pair + 1] = ~keep[pair]
  samples = []
  for mask in keep:
    known = rng.permutation(np.flatnonzero(mask))[: N // 6]
    copies = np.clip(
      images[known] + rng.normal(0.0, 2.0, (len(known), 6, 6, 1)), 0, 255
    )
    fresh = images[N + rng.permutation(2 * N)[:100]]
    samples.append(np.concatenate([copies.astype(np.uint8), fresh]))
  plan = plan_for(images[:N], keep, [len(x) for x in samples])
  write_samples(run, samples)
  nearest_sample.measure(plan, run)
  nearest_sample.analyse(plan, run)
  return run, plan


def test_calibration_finds_what_the_plain_distance_does_not(attacked):
  run, _ = attacked
  table = files.read_csv(nearest_sample.Paths(run).summary)
  fixed = table[table['timestep_rule'] == 'fixed']
  by = fixed.set_index(['attack', 'metric'])['value']
  assert by['rmia', 'auc'] > by['threshold', 'auc'] + 0.03
  assert by['rmia', 'tpr@fpr=0.05'] > 0.2
  assert set(table['attack']) == {
    'threshold', 'lira', 'offline_lira', 'rmia', 'offline_rmia',
  }  # fmt: skip
  # The other number of neighbours is chosen on other models, or is no attack.
  assert set(table['timestep_rule']) == {'fixed', 'other_models', 'oracle'}
  null = fixed[fixed['metric'] == 'null_auc']
  assert ((null['low'] <= 0.5) & (null['high'] >= 0.5)).all()


def test_generators_that_know_nothing_give_nothing(tmp_path, images):
  run = layout.Run(epath.Path(tmp_path), identity='x')
  rng = np.random.default_rng(2)
  keep = rng.random((K, N)) < 0.5
  samples = [images[N + rng.permutation(2 * N)[:100]] for _ in range(K)]
  plan = plan_for(images[:N], keep, [100] * K)
  write_samples(run, samples)
  nearest_sample.measure(plan, run)
  nearest_sample.analyse(plan, run)
  table = files.read_csv(nearest_sample.Paths(run).summary)
  auc = table[(table['metric'] == 'auc') & (table['timestep_rule'] == 'fixed')]
  assert len(auc) == 5
  assert ((auc['low'] <= 0.51) & (auc['high'] >= 0.49)).all()


def test_more_samples_are_measured_again_and_torn_distances_too(
  attacked, tmp_path, images
):
  run, plan = attacked
  paths = nearest_sample.Paths(run)
  before = {k: paths.distances(k).read_bytes() for k in range(K)}
  times = {k: paths.distances(k).stat().mtime for k in range(K)}
  paths.distances(2).write_bytes(before[2][:99])
  with pytest.raises(inputs.InputError, match='missing or torn'):
    nearest_sample.analyse(plan, run)
  nearest_sample.measure(plan, run)
  assert paths.distances(2).read_bytes() == before[2]
  assert {
    k for k in range(K) if paths.distances(k).stat().mtime != times[k]
  } <= {2}
