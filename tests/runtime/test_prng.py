"""Keys differ by purpose and number, and by nothing else."""

import jax
import numpy as np
import pytest

from jaxdiff.runtime import prng


def test_purposes_have_different_roots():
  data = [
    tuple(np.asarray(jax.random.key_data(prng.root(0, purpose))))
    for purpose in prng.PURPOSES
  ]
  assert len(set(data)) == len(prng.PURPOSES)


def test_unknown_purpose_is_refused():
  with pytest.raises(ValueError):
    prng.root(0, 'nothing')


def test_noise_of_a_number_ignores_its_neighbours():
  root = prng.root(3, 'noise')
  many = prng.normal_each(prng.fold_each(root, np.arange(5)), (2, 2))
  one = prng.normal_each(prng.fold_each(root, np.array([3])), (2, 2))
  np.testing.assert_array_equal(many[3], one[0])
  assert len(np.unique(np.asarray(many))) == many.size
