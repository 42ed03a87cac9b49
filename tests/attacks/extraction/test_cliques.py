"""Largest cliques against every subset; prompts that are memorised or not."""

import itertools

import numpy as np
import pytest

from jaxdiff.attacks.extraction import cliques


def random_graph(seed, nodes, density):
  rng = np.random.default_rng(seed)
  pairs = np.array(list(itertools.combinations(range(nodes), 2)))
  edges = pairs[rng.random(len(pairs)) < density]
  return edges, rng.random(len(edges))


def naive(edges, distances, min_size):
  """Every subset: size and smallest mean distance."""
  weight = {
    (a, b): d for (a, b), d in zip(edges.tolist(), distances, strict=True)
  }
  nodes = sorted(set(edges.ravel().tolist()))
  for size in range(len(nodes), min_size - 1, -1):
    means = [
      np.mean([weight[pair] for pair in itertools.combinations(subset, 2)])
      for subset in itertools.combinations(nodes, size)
      if all(pair in weight for pair in itertools.combinations(subset, 2))
    ]
    if means:
      return size, min(means)
  return 0, np.nan


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('density', [0.3, 0.6, 0.9])
def test_equals_the_naive_twin(seed, density):
  edges, distances = random_graph(seed, 11, density)
  found = cliques.largest_clique(edges, distances, min_size=3)
  size, mean = naive(edges, distances, 3)
  assert len(found.members) == size and not found.gave_up
  np.testing.assert_allclose(found.mean_distance, mean)


def test_medoid_is_nearest_to_the_others():
  edges = np.array([[0, 1], [0, 2], [1, 2], [7, 9]])
  found = cliques.largest_clique(edges, np.array([0.1, 0.3, 0.1, 0.01]), 3)
  assert found.members.tolist() == [0, 1, 2] and found.medoid == 1
  assert found.mean_distance == pytest.approx(0.5 / 3)


@pytest.mark.parametrize('edges', [np.zeros((0, 2), int), np.array([[0, 1]])])
def test_no_clique_of_the_size(edges):
  found = cliques.largest_clique(edges, np.ones(len(edges)), 3)
  assert not len(found.members) and found.medoid == -1
  assert np.isnan(found.mean_distance) and not found.gave_up


def test_it_says_when_it_gave_up():
  # Pairs of a perfect matching are missing: 2^12 maximal cliques.
  pairs = itertools.combinations(range(24), 2)
  edges = np.array([(a, b) for a, b in pairs if b - a != 12])
  found = cliques.largest_clique(edges, np.ones(len(edges)), most_cliques=50)
  assert found.gave_up and len(found.members) == 12
  assert not cliques.largest_clique(edges, np.ones(len(edges))).gave_up


def test_prompts_are_ranked_by_what_is_memorised():
  rng = np.random.default_rng(0)
  memory = rng.integers(60, 196, (2, 16, 16, 3))

  def generations(share, spread):
    images = rng.integers(0, 256, (24, 16, 16, 3))
    copies = int(24 * share)
    noise = rng.normal(0, spread, (copies, 16, 16, 3))
    images[:copies] = np.clip(memory[0] + noise, 0, 255)
    return images.astype(np.uint8)

  prompts = [
    ('novel', generations(0.0, 0.0)),
    ('blurred', generations(0.75, 8.0)),
    ('too few', generations(0.3, 2.0)),
    ('verbatim', generations(0.5, 2.0)),
  ]
  table = cliques.scan_prompts(prompts, 0.1, total=4)
  assert table['prompt'].tolist()[:2] == ['verbatim', 'blurred']
  assert table['clique_size'].tolist() == [12, 18, 0, 0]
  assert table['num_images'].tolist() == [24] * 4
  assert table['mean_distance'][0] < 0.02 < table['mean_distance'][1]
  assert 0 <= table['medoid'][0] < 12 and not table['gave_up'].any()
