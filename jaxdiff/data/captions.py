"""What is said of each image of a set.

Captions are those of Hugging Face's imagefolder, `metadata.csv` or
`metadata.jsonl` in the folder (file_name and text, prompt or caption); or, as
trainers of adapters have them, a `.txt` beside each image.
"""

import pathlib

from jaxdiff import inputs
from jaxdiff.data import image_sets
from jaxdiff.data.readers import image_files, prompts

_TABLES = ('metadata.csv', 'metadata.jsonl')
# Bytes of a caption's file.
_MOST_BYTES = 2**16


def plain(caption: str) -> str:
  """A caption without what people spell one way or the other."""
  return ' '.join(caption.casefold().split())


def of(path: str, images: image_sets.ImageSet) -> tuple[str, ...]:
  """The caption of each image.

  Args:
    path: of the folder that `images` were listed from.
    images: the set.

  Raises:
    InputError: naming the first image that has none.
  """
  root = inputs.local(path, images.key)
  known = _told(root, images.key)
  if known is not None:
    found = [known.get(name, '') for name in images.names]
  else:
    # As the files are called, not as people are told.
    listed = image_files.listing(path, images.key)[1]['file_name']
    raw = {inputs.name_of(name): name for name in listed}
    found = [_beside(root, raw.get(name, name)) for name in images.names]
  for name, text in zip(images.names, found, strict=True):
    if not text:
      raise inputs.InputError(
        f'{images.key}: {inputs.one_line(name, 80)} has no caption; give '
        'metadata.csv in the folder with file_name and caption, or a .txt '
        'beside each image'
      )
  return tuple(found)


def _told(root: pathlib.Path, key: str) -> dict[str, str] | None:
  """What a table says, by file name; None where none has captions."""
  for name in _TABLES:
    path = root / name
    found = prompts.told(path, key) if path.exists() else None
    if found is not None:
      return found
  return None


def _beside(root: pathlib.Path, name: str) -> str:
  """The text of a file beside an image; '' if there is none."""
  path = (root / name).with_suffix('.txt')
  if not path.is_file():
    return ''
  image_files.inside(root, str(path.relative_to(root)))
  with inputs.reading(path, 'no text in UTF-8'):
    return inputs.read_bytes(path, _MOST_BYTES).decode('utf-8-sig').strip()
