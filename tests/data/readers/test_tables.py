"""Tables that users bring: no cell is lost, whichever reader asks."""

import numpy as np
import pytest

from jaxdiff import inputs
from jaxdiff.attacks.extraction import annotations
from jaxdiff.data.readers import (
  image_files,
  prompt_lists,
  prompts,
  score_files,
  tables,
)
from jaxdiff.runs import layout


@pytest.mark.parametrize(
  'content',
  [
    'a,b\n1,2,3\n',
    'a,b\n1,2,\n',
    'a,b\n1,2,3\n4,5,6\n',
    'a,b\n1,2\n4,5,6\n',
    'a\nx, y\n',
  ],
)
def test_rows_of_more_cells_than_the_head_are_refused(content):
  with pytest.raises(ValueError, match='cells|fields'):
    tables.read(content.encode())


def test_what_is_whole_is_read_as_it_stands():
  found = tables.read('\ufeffa,b\n007,NA\n,"x, y"\n'.encode())
  assert found.to_dict('list') == {'a': ['007', ''], 'b': ['NA', 'x, y']}
  assert list(tables.read(b'a,b\n').columns) == ['a', 'b']
  numbers = tables.read(b'a,b\n1,0.5\n', {'a': str})
  assert numbers['b'].dtype == np.float64 and numbers['a'][0] == '1'
  with pytest.raises(ValueError, match='a column is there twice'):
    tables.read(b'a,a\n1,2\n')


def test_every_reader_refuses_them(tmp_path):
  """An unquoted comma loses neither a model, nor a sample, nor a word."""

  def write(name, text):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path

  scores = write('s.csv', 'model,example,member,score\nm,x, y,1,0.5\n')
  listed = write('p.csv', 'id,prompt\n1,a cat, sitting\n')
  captions = write('c.csv', 'file_name,caption\na.png,a cat, sitting\n')
  write('images/metadata.csv', 'file_name,label\na.png,cat, sitting\n')
  (tmp_path / 'images' / 'a.png').write_bytes(b'x')
  run = layout.Run(layout.folder(str(tmp_path / 'run')))
  write('run/annotations.csv', 'model,sample,memorised\n0,1,2,yes\n')
  for read in (
    lambda: score_files.read(
      str(scores), members='', non_members='', layout='auto',
      larger_is_member=True,
    ),
    lambda: prompt_lists.read(str(listed), 'prompts'),
    lambda: prompts.read(captions, 'prompts.of'),
    lambda: image_files.listing(str(tmp_path / 'images'), 'training'),
    lambda: annotations.read_annotations(run, 8, 8),
  ):  # fmt: skip
    with pytest.raises(inputs.InputError, match='cells|fields') as error:
      read()
    assert '\n' not in str(error.value)
