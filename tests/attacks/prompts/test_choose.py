"""Which captions are worth a prompt: by naive twins, and bad files."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest

from jaxdiff import inputs
from jaxdiff.attacks.prompts import choose
from jaxdiff.data.readers import prompt_embeddings, prompt_lists
from tests import processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def brought():
  """Embeddings of which some are copies, nearly; captions, some twice."""
  rng = np.random.default_rng(0)
  embeddings = rng.standard_normal((200, 24)).astype(np.float32)
  for start, copies in ((10, 6), (50, 3), (80, 12)):
    noise = 0.02 * rng.standard_normal((copies, 24))
    embeddings[start : start + copies] = embeddings[start] + noise
  embeddings[150] *= 40.0  # length says nothing
  captions = [f'caption {k // 2 if k < 8 else k}' for k in range(200)]
  return embeddings, captions


def cosines(embeddings):
  unit = embeddings.astype(np.float64)
  unit /= np.linalg.norm(unit, axis=1, keepdims=True)
  return unit @ unit.T


def test_duplicates_are_those_of_all_pairs(brought):
  embeddings, captions = brought
  found = choose.scores(embeddings, captions, 'duplicates', 0.95)
  np.testing.assert_array_equal(
    found, (cosines(embeddings) >= 0.95).sum(axis=1)
  )
  assert sorted(set(found)) == [1, 3, 6, 12]


def test_outliers_are_those_of_all_pairs(brought, monkeypatch):
  monkeypatch.setattr(choose, 'NEIGHBOURS', 9)
  monkeypatch.setattr(choose, '_ROWS', 64)
  embeddings, captions = brought
  found = choose.scores(embeddings, captions, 'outliers', 0.0)
  far = np.sort(1.0 - cosines(embeddings), axis=1)[:, 1:10].mean(axis=1)
  np.testing.assert_allclose(found, far, rtol=1e-4)


def test_captions_that_are_there_again_are_listed_once(brought):
  _, captions = brought
  ids = [f'row-{k}' for k in range(200)]
  table = choose.best(None, captions, ids, by='text', top=5)
  assert table['score'].tolist() == [2, 2, 2, 2, 1]
  assert table['id'].tolist()[:4] == ['row-0', 'row-2', 'row-4', 'row-6']


def test_the_command_writes_prompts_that_are_read(brought, tmp_path):
  embeddings, captions = brought
  captions = ['=1+1', "it's", *captions[2:]]
  path = tmp_path / 'clip.parquet'
  parquet.write_table(
    pa.table({'caption': captions, 'embedding': [*embeddings]}), path
  )
  np.savez(tmp_path / 'clip.npz', prompt=captions, embedding=embeddings)
  first = prompt_embeddings.read(str(path), '--captions', embedded=True)
  second = prompt_embeddings.read(
    str(tmp_path / 'clip.npz'), '--captions', embedded=True
  )
  assert first.captions == second.captions and first.ids == second.ids
  np.testing.assert_array_equal(first.embeddings, second.embeddings)
  out = tmp_path / 'prompts.jsonl'

  def start(*more):
    return subprocess.run(
      [sys.executable, '-m', 'launch.choose', f'--captions={path}',
       f'--out={out}', *more],
      cwd=processes.ROOT, env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      capture_output=True, text=True, check=False,
    )  # fmt: skip

  done = start('--top=300')
  assert done.returncode == 0, done.stderr
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  assert len(rows) == 197 and rows[0]['score'] == 12  # 2 to 7 are pairs
  found = prompt_lists.read(str(out), 'prompts')
  assert {'=1+1', "it's"} <= set(found.texts)
  again = start()
  assert again.returncode == 2 and 'exists' in again.stderr
  assert again.stderr.count('\n') == 1


@pytest.mark.parametrize(
  ('arrays', 'words'),
  [
    ({'prompt': ['a', 'b']}, 'is no .npz'),
    ({'embedding': np.ones((2, 3))}, 'is no .npz'),
    ({'prompt': ['a', ' '], 'embedding': np.ones((2, 3))}, 'row 2 has no'),
    ({'prompt': ['a'], 'embedding': np.ones((2, 3))}, 'not float'),
    ({'prompt': ['a', 'b'], 'embedding': np.ones((2, 3), int)}, 'not float'),
    ({'prompt': ['a', 'b'], 'embedding': np.zeros((2, 3))}, 'row 1 is zero'),
    (
      {'prompt': ['a', 'b'], 'embedding': np.full((2, 3), np.nan)},
      'row 1 is zero, or not finite',
    ),
    ({'prompt': [1, 2], 'embedding': np.ones((2, 3))}, 'has no prompt'),
    (
      {'prompt': ['a', 'b'], 'id': ['x', 'x'], 'embedding': np.ones((2, 3))},
      'an id is there twice',
    ),
    (
      {'prompt': ['a', 'b'], 'id': ['x'], 'embedding': np.ones((2, 3))},
      '1 ids of 2 captions',
    ),
  ],
)
def test_bad_files_are_one_line(tmp_path, arrays, words):
  np.savez(tmp_path / 'x.npz', **arrays)
  with pytest.raises(inputs.InputError, match=words) as error:
    prompt_embeddings.read(str(tmp_path / 'x.npz'), '--captions', embedded=True)
  assert '\n' not in str(error.value) and '--captions' in str(error.value)


def test_rows_without_a_caption_or_an_embedding_are_refused(tmp_path):
  path = tmp_path / 'x.parquet'
  for columns, words in (
    (
      {'prompt': ['a', None], 'embedding': [[1.0], [2.0]]},
      'row 2 has no prompt',
    ),
    (
      {'prompt': list('abcd'), 'embedding': [[1.0] * 8] * 3 + [None]},
      'absent, or of unequal',
    ),
    ({'prompt': ['a', 'b'], 'embedding': [[1.0], [2.0, 3.0]]}, 'unequal'),
  ):
    parquet.write_table(pa.table(columns), path)
    with pytest.raises(inputs.InputError, match=words):
      prompt_embeddings.read(str(path), '--captions', embedded=True)


def test_copies_of_another_length_have_cosine_one():
  row = np.random.default_rng(0).standard_normal(24)
  found = choose.scores(
    np.stack([row, 3.0 * row, -row]), 'abc', 'duplicates', 1.0
  )
  assert found.tolist() == [2, 2, 1]
  with pytest.raises(ValueError, match='one row has no neighbour'):
    choose.scores(row[None], 'a', 'outliers', 1.0)


def test_no_object_is_unpickled(tmp_path):
  texts = np.array(['a', 'b'], dtype=object)
  np.savez(tmp_path / 'x.npz', prompt=texts, embedding=np.ones((2, 3)))
  with pytest.raises(inputs.InputError, match='no whole npz'):
    prompt_embeddings.read(str(tmp_path / 'x.npz'), '--captions', embedded=True)
