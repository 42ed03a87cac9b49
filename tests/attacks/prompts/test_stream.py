"""Generate and filter: on oracles, by its naive twin, stopped and resumed."""

import dataclasses
import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.attacks.extraction import cliques
from jaxdiff.attacks.prompts import evaluate, paths, screen, screens, stream
from jaxdiff.data import datasets, known_prompts
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.metrics import tiled_distance
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import preemption
from jaxdiff.sampling import prompted
from tests.attacks.prompts import oracles

pytestmark = pytest.mark.slow

SEEDS = 12


def run_of(folder):
  return layout.Run(layout.folder(str(folder)), identity='oracle')


def plan_of(drawn, **keys):
  values = {
    'num_seeds': SEEDS, 'first': 0, 'tau': 0.1, 'min_size': 5, 'grid': 4,
    'size': 8, 'kept': 3, 'block_size': 7, 'num_chosen': len(drawn.texts),
    'chosen': lambda run: np.arange(len(drawn.texts)),
  } | keys  # fmt: skip
  return stream.StreamPlan(prompted=drawn, **values)


def screen_of(drawn, **keys):
  values = {
    'kinds': ('x0', 'dcs', 'agreement'), 'draws': 1, 'num_seeds': 3,
    'num_steps': 5, 'guidance_scale': 3.0, 'size': 8, 'grid': 4,
    'block_size': 25,
  } | keys  # fmt: skip
  return screen.ScreenPlan(prompted=drawn, **values)


def evaluate_of(drawn, screened, streamed, trained, **keys):
  count = len(drawn.texts)
  return evaluate.EvaluatePlan(
    texts=drawn.texts,
    known=known_prompts.Known(
      trained=np.asarray(trained, np.int8)[None],
      copies=np.zeros(count, int),
      group=np.arange(count),
      ids=drawn.texts,
    ),
    num_models=1, screen=screened, stream=streamed, seed=0, num_resamples=50,
    **keys,
  )  # fmt: skip


@pytest.fixture(scope='module')
def memoriser():
  images, prompts = oracles.brought()
  return oracles.plan(oracles.memoriser(images, prompts), prompts)


@pytest.fixture(scope='module')
def finished(memoriser, tmp_path_factory):
  """All prompts of the memoriser, screened and drawn."""
  run = run_of(tmp_path_factory.mktemp('stream'))
  plan, screened = plan_of(memoriser), screen_of(memoriser)
  screen.measure(screened, run)
  stream.generate(plan, run)
  known = np.arange(oracles.COUNT) < oracles.KNOWN
  trained = np.where(known, 1, 0)
  evaluate.tables(evaluate_of(memoriser, screened, plan, trained), run)
  return run


def test_a_memoriser_is_found_and_only_what_it_knows(finished):
  table = files.read_csv(paths.Paths(finished).table)
  found = table[table['found'] > 0]
  assert set(found['number']) == set(range(oracles.KNOWN))
  assert (found['clique_size'] == SEEDS).all()
  assert found['least_tau'].max() < 0.02
  least = 1 / (1 + oracles.COUNT - oracles.KNOWN)
  np.testing.assert_allclose(found['p_value'], least, rtol=1e-6)
  # Its images are those of the prompts: kept, the medoid among them.
  images, _ = oracles.brought()
  kept = [*(finished.path / 'prompts/pictures/model-000').glob('*.png')]
  assert len(kept) == 3 * oracles.KNOWN
  for row in found.itertuples():
    assert paths.Paths(finished).picture(0, row.number, row.medoid).exists()
  totals = files.read_csv(paths.Paths(finished).totals).set_index('kind')
  assert totals['found'].to_dict() == {
    'asked': oracles.KNOWN, 'trained': oracles.KNOWN, 'held_out': 0,
  }  # fmt: skip
  summary = files.read_csv(paths.Paths(finished).summary)
  best = summary[summary['truth'] == 'found'].set_index('screen')
  assert best.loc['agreement', 'ap'] == 1.0
  assert best.loc['agreement', 'kept'] == 1.0
  assert best.loc['x0', 'auc'] > 0.99
  assert best.loc['x0', 'cost'] == pytest.approx(1 / (SEEDS * 10))
  # Texts are hashes here: they say nothing.
  assert best.loc['agreement', 'against_text'] == 'beats'
  assert len(images) == oracles.COUNT


def test_a_block_is_what_its_naive_twin_finds(memoriser, finished):
  plan = plan_of(memoriser)
  (block,) = memoriser.ensemble.blocks(finished)
  mesh = mesh_lib.make(1)
  sampler = prompted.make_sampler(memoriser, mesh)
  params = memoriser.ensemble.restore(block, mesh)
  rows = stream.read(plan, finished, 0)
  for number in (3, 30):
    # Every image by the index that launch.sample would give it.
    indices = number + oracles.COUNT * np.arange(SEEDS)
    x0 = sampler(params, np.zeros(1, int), indices)[0]
    images = datasets.to_uint8(x0)
    distances = tiled_distance.tile_distances(images, 4)
    pairs = [
      pair
      for pair in itertools.combinations(range(SEEDS), 2)
      if distances[pair] <= 0.1
    ]
    assert rows['num_edges'][number] == len(pairs)
    part = blocks.read_block(
      paths.Paths(finished).stream(0, number // 7 * 7), 'oracle', 0, None,
      'edge_prompt', 'edge_seeds', 'edge_distance',
    )  # fmt: skip
    own = part['edge_prompt'] == number
    assert part['edge_seeds'][own].tolist() == [list(pair) for pair in pairs]
    np.testing.assert_allclose(
      part['edge_distance'][own], [distances[pair] for pair in pairs], rtol=1e-5
    )


def test_a_search_that_gives_up_claims_the_clique_that_it_knows():
  """Two halves: one so tangled that no end is found, one a tight clique."""
  rng = np.random.default_rng(0)
  images = np.zeros((12, 8, 8, 1), np.uint8)
  plan = stream.StreamPlan(
    prompted=None, num_seeds=12, first=0, tau=0.1, min_size=5, grid=4, size=8,
    kept=2, block_size=1, chosen=None, num_chosen=1,
  )  # fmt: skip
  edges = np.array([*itertools.combinations(range(5), 2)])
  distances = rng.uniform(0.01, 0.02, len(edges))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stream, '_edges', lambda *given: (edges, distances))
    whole, none = cliques.largest_clique, iter([True])

    def search(*given):
      if next(none, False):
        return cliques.Clique(np.zeros(0, int), float('nan'), -1, True)
      return whole(*given)

    patch.setattr(cliques, 'largest_clique', search)
    row = stream.scan(plan, images)
  assert row['clique_size'] == 5 and row['medoid'] >= 0 and row['gave_up']


def test_what_was_chosen_stays_chosen(memoriser, tmp_path):
  run = run_of(tmp_path)
  plan = plan_of(memoriser, chosen=lambda run: np.arange(3, 9), num_chosen=6)
  assert stream.choose(plan, run).tolist() == [*range(3, 9)]
  other = plan_of(memoriser, chosen=lambda run: np.arange(6), num_chosen=6)
  assert stream.choose(other, run).tolist() == [*range(3, 9)]


def naive_least_tau(distances, size):
  """Over all subsets."""
  best = np.inf
  for chosen in itertools.combinations(range(len(distances)), size):
    worst = max(distances[pair] for pair in itertools.combinations(chosen, 2))
    best = min(best, worst)
  return best


@pytest.mark.parametrize('size', [2, 3, 5])
def test_least_tau_equals_all_subsets(size):
  rng = np.random.default_rng(size)
  for _ in range(20):
    distances = rng.random((9, 9)).round(1)
    distances = np.maximum(distances, distances.T)
    edges = np.array([*itertools.combinations(range(9), 2)])
    of_edges = distances[edges[:, 0], edges[:, 1]]
    near = of_edges <= 0.8
    found = cliques.least_tau(edges[near], of_edges[near], size)
    want = naive_least_tau(distances, size)
    assert found == (want if want <= 0.8 else np.inf)
  assert cliques.least_tau(np.zeros((0, 2), int), np.zeros(0), size) == np.inf


def test_killed_and_resumed_it_is_the_same(memoriser, finished, tmp_path):
  run, plan = run_of(tmp_path / 'again'), plan_of(memoriser)
  asked = iter([False] * 3 + [True] * 100)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(preemption, 'asked', lambda: next(asked))
    with pytest.raises(preemption.Preempted):
      stream.generate(plan, run)
  done = list((run.path / 'prompts/generations/model-000').glob('*.npz'))
  assert 0 < len(done) < 9
  paths.Paths(run).stream(0, 7).write_bytes(b'torn')
  stream.generate(plan, run)
  for start in range(0, oracles.COUNT, 7):
    first, second = (
      paths.Paths(x).stream(0, start).read_bytes() for x in (run, finished)
    )
    assert first == second
  # Blocks that processes make apart are these, too.
  apart = run_of(tmp_path / 'apart')
  other = dataclasses.replace(plan.prompted, apart=True)
  stream.generate(dataclasses.replace(plan, prompted=other), apart)
  first = paths.Paths(apart).stream(0, 0).read_bytes()
  assert first == paths.Paths(finished).stream(0, 0).read_bytes()


def test_neither_batch_block_nor_device_changes_a_prompt(memoriser, finished):
  want = stream.read(plan_of(memoriser), finished, 0)
  images, prompts = oracles.brought()
  other = oracles.plan(
    oracles.memoriser(images, prompts), prompts, batch_size=40
  )
  plan = plan_of(other, block_size=25)
  for count in (1, 2, 4):
    mesh = mesh_lib.make(1, list(mesh_lib.make(1).devices.flat)[:count])
    compute = stream.make_compute(
      plan, finished, np.arange(oracles.COUNT), mesh
    )
    (block,) = other.ensemble.blocks(finished)
    found = compute(
      other.ensemble.restore(block, mesh), np.zeros(1, int), np.arange(20)
    )
    for name in ('num_edges', 'clique_size', 'medoid'):
      np.testing.assert_array_equal(found[name][0], want[name][:20])
    np.testing.assert_allclose(
      found['least_tau'][0], want['least_tau'][:20], atol=2e-3
    )


def test_prompts_without_a_pair_stop_and_their_loss_is_told(
  memoriser, finished, tmp_path
):
  run = run_of(tmp_path)
  plan = plan_of(memoriser, first=4)
  stream.generate(plan, run)
  found, whole = stream.read(plan, run, 0), stream.read(plan, finished, 0)
  stopped = found['num_images'] == 4
  assert stopped.sum() > 20 and not stopped[: oracles.KNOWN].any()
  # Those that go on are as if nobody had asked.
  for name in stream.COLUMNS:
    np.testing.assert_array_equal(found[name][~stopped], whole[name][~stopped])
  # Of a clique of m among n, two or more of the first f: every choice counted.
  n, m, f = 9, 3, 4
  missed = np.mean(
    [
      len(set(x) & set(range(m))) < 2
      for x in itertools.combinations(range(n), f)
    ]
  )
  lost = stream.lost(np.array([m]), np.array([n]), f)
  assert lost[0] == pytest.approx(missed / (1 - missed))
  assert stream.lost(np.array([m]), np.array([n]), 0)[0] == 0.0


def test_a_screen_chooses_what_is_drawn(memoriser, finished, tmp_path):
  screened = screen_of(memoriser)
  scores = screen.read(screened, finished, 0)['agreement']
  chosen = stream.best([scores], memoriser.texts, 15)
  assert set(range(oracles.KNOWN)) <= set(chosen) and len(chosen) == 15
  plan = plan_of(memoriser, chosen=lambda run: chosen, num_chosen=15)
  run = run_of(tmp_path)
  shutil.copytree(
    finished.path / 'prompts' / 'screens', run.path / 'prompts' / 'screens'
  )
  stream.generate(plan, run)
  trained = np.where(np.arange(oracles.COUNT) < oracles.KNOWN, 1, 0)
  evaluate.tables(evaluate_of(memoriser, screened, plan, trained), run)
  table = files.read_csv(paths.Paths(run).table)
  assert sorted(table['number']) == chosen.tolist()
  assert table['found'].sum() == oracles.KNOWN
  # Held-out prompts that no screen chose count: none of them has a clique.
  held = oracles.COUNT - oracles.KNOWN
  p_values = table.loc[table['found'] > 0, 'p_value']
  np.testing.assert_allclose(p_values, 1 / (1 + held), rtol=1e-6)
  # Of two models, what either ranks first.
  first, second = np.array([9.0, 1, 2, 3]), np.array([0.0, 5, 1, 2])
  assert stream.best([first, second], 'abcd', 2).tolist() == [0, 1]
  # Of equal scores no place in the file is preferred.
  texts = [f'text {k}' for k in range(1000)]
  lots = stream.best([np.zeros(1000)], texts, 100)
  assert 400 < lots.mean() < 600
  again = stream.best([np.zeros(1000)], texts[::-1], 100)
  assert {texts[k] for k in lots} == {texts[999 - k] for k in again}


def test_the_clique_rule_keeps_its_rate_on_a_generaliser(tmp_path):
  """Of 200 audits of 10 prompts beside 10 held-out ones."""
  repeats, count, level = 200, 20, 0.2
  rng = np.random.default_rng(3)
  prompts = np.repeat(
    rng.standard_normal((repeats * count // 4, oracles.WORDS)), 4, axis=0
  ) + 0.1 * rng.standard_normal((repeats * count, oracles.WORDS))
  drawn = oracles.plan(
    oracles.generaliser(), np.float32(rng.permutation(prompts)), batch_size=2048
  )
  run = run_of(tmp_path)
  plan = plan_of(drawn, tau=0.3, num_seeds=6, min_size=3, block_size=2000)
  stream.generate(plan, run)
  least = stream.read(plan, run, 0)['least_tau'].astype(float)
  least = np.where(least < 0, np.inf, least)
  assert np.isfinite(least).mean() > 0.9  # within twice tau there is much
  alarms, by_p = [], []
  for of_audit in least.reshape(repeats, count):
    held, others = of_audit[:10], of_audit[10:]
    tau = evaluate.calibrated_tau(held, 0.6, level)
    alarms.append((others <= tau).mean())
    by_p.append((evaluate.p_values(-others, -held) <= level).mean())
  spread = 3.0 * np.std(alarms) / np.sqrt(repeats)
  assert np.mean(alarms) - spread <= level
  assert np.mean(alarms) == pytest.approx(2 / 11, abs=spread)
  np.testing.assert_allclose(alarms, by_p)


def test_a_threshold_is_lowered_to_what_held_out_prompts_allow():
  held = np.array([0.05, 0.2, 0.3, np.inf, np.inf, np.inf, np.inf, np.inf, 0.4])
  assert evaluate.calibrated_tau(held, 0.25, 0.0) == 0.25
  # One of ten may be called: none of nine held out, and the prompt itself.
  assert evaluate.calibrated_tau(held, 0.25, 0.1) < 0.05
  assert 0.05 <= evaluate.calibrated_tau(held, 0.25, 0.2) < 0.2
  assert evaluate.calibrated_tau(held, 0.25, 0.5) == 0.25
  assert evaluate.calibrated_tau(held, 0.25, 0.05) < 0.0  # too few to say
  assert [evaluate.fewest_held_out(x) for x in (0.0, 0.05, 0.1, 0.01)] == [
    0, 19, 9, 99,
  ]  # fmt: skip
  # Generations that are the same to the bit are no exception.
  assert evaluate.calibrated_tau(np.zeros(20), 0.25, 0.05) < 0.0


def test_screens_draw_none_of_the_noise_that_they_are_held_against(memoriser):
  words, seeds = prompted.words_of(['a', 'b']), np.zeros(2, np.uint32)
  found = [
    jax.random.key_data(
      prompted.keys_of(memoriser, jnp.asarray(0), words, seeds, purpose)
    )
    for purpose in ('sampling', 'screening')
  ]
  assert (np.asarray(found[0]) != np.asarray(found[1])).any(axis=1).all()
  run = screen._run_fn(screen_of(memoriser), 5)
  cond = memoriser.encode_fn({}, memoriser.tokens_of(memoriser.texts[:2]))
  null = {'tokens': jnp.zeros(oracles.WORDS)}
  words = prompted.words_of(memoriser.texts[:2])
  latents, _ = run(({}, null), jnp.asarray(0), (words, seeds, cond))
  key = prompted.keys_of(memoriser, jnp.asarray(0), words, seeds, 'screening')
  noise = steps_lib.noise(key, jnp.asarray(1000), oracles.SHAPE)
  want, _ = screens.guided_run(
    memoriser.denoiser.eps_fn_of({}), noise, cond, null,
    screen_of(memoriser).steps(5), guidance_scale=3.0, clip_sample=False,
  )  # fmt: skip
  np.testing.assert_allclose(latents, want, atol=1e-5)


def test_neither_batch_block_nor_device_changes_a_screen(tmp_path):
  _, prompts = oracles.brought()
  eps_fn, found = oracles.generaliser(), []
  for count, batch_size, block in ((1, 64, 25), (2, 40, 60), (4, 16, 7)):
    drawn = oracles.plan(eps_fn, prompts, batch_size=batch_size)
    plan = screen_of(drawn, kinds=screens.SCREENS, block_size=block)
    mesh = mesh_lib.make(1, jax.devices()[:count])
    (of_model,) = drawn.ensemble.blocks(run_of(tmp_path))
    compute = screen.make_compute(plan, mesh)
    params = drawn.ensemble.restore(of_model, mesh)
    parts = [
      compute(params, np.zeros(1, int), rows)
      for rows in blocks.spans(len(drawn.texts), block)
    ]
    found.append(
      {
        name: np.concatenate([part[name][0] for part in parts])
        for name in plan.names[1:]
      }
    )
  assert len(found[0]) == len(screens.SCREENS)
  # What was measured by an older definition is not taken for it.
  assert 'agreement' not in found[0]
  for other in found[1:]:
    for name in found[0]:
      np.testing.assert_allclose(
        other[name], found[0][name], rtol=1e-3, atol=2e-3, err_msg=name
      )
