"""Is an image too close to the training set? Build an index, ask it, serve it.

    launch/local.sh python -m launch.guard --build=train/ --index=train.guard
    launch/local.sh python -m launch.guard --index=train.guard --check=samples/
    launch/local.sh python -m launch.guard --index=train.guard --check=- <a.png
    launch/local.sh python -m launch.guard --index=train.guard --serve=:8000

--check prints one JSON line an image and ends with 3 if one is too close.
"""

import dataclasses
import json
import sys

from absl import flags

from jaxdiff import guard, inputs
from jaxdiff.data import image_sets
from jaxdiff.guard import index as index_lib
from launch import plain

INDEX = flags.DEFINE_string('index', None, 'File of the index.', required=True)
BUILD = flags.DEFINE_string(
  'build', None, 'Training images that an index is made of: a folder or npz.'
)
CHECK = flags.DEFINE_string(
  'check', None, 'Images that are asked about: a folder, an npz, or - (stdin).'
)
SERVE = flags.DEFINE_string('serve', None, 'HOST:PORT to answer at.')
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size', 0, 'Sides that are compared; 0 is 64 at most.', 0, 1024
)
FLIP = flags.DEFINE_bool('flip', False, 'A mirror image counts as the image.')
NEAR = flags.DEFINE_float('near', 0.02, 'RMSE of near-duplicates.', 0.0, 1.0)
ALPHA = flags.DEFINE_float(
  'alpha', 0.5, 'Ratio to the mean distance that is too close.', 0.0, 1.0
)

# Requests under way, each of which may hold an image; others are refused.
_MOST_CLIENTS = 64

# Exit code where an image is too close: as of a policy that is not met.
TOO_CLOSE = 3


def work() -> int:
  """What the flags say; the exit code."""
  if not any(x.value is not None for x in (BUILD, CHECK, SERVE)):
    raise inputs.InputError('give --build, --check or --serve')
  if BUILD.value is not None:
    index = guard.build(
      BUILD.value, INDEX.value, image_size=IMAGE_SIZE.value, flip=FLIP.value,
      near=NEAR.value, alpha=ALPHA.value,
    )  # fmt: skip
    print(f'index: {INDEX.value}, {len(index):,} images')
  else:
    for flag in (IMAGE_SIZE, FLIP, NEAR, ALPHA):
      if flag.present:
        raise inputs.InputError(
          f'--{flag.name}: is fixed when the index is built; give it to --build'
        )
    index = guard.load(INDEX.value)
  close = 0
  if CHECK.value is not None:
    close = check(index, CHECK.value)
  if SERVE.value is not None:
    serve(index, SERVE.value)
  return TOO_CLOSE if close else 0


def check(index: guard.Index, images: str) -> int:
  """Prints a line an image; how many are too close."""
  if images == '-':
    content = sys.stdin.buffer.read(index_lib.MOST_BYTES + 1)
    named = [('-', content)]
  else:
    files_of = image_sets.open_set(images, '--check')
    named = (
      (name, image)
      for name, image in zip(
        files_of.names,
        files_of.decoded(range(len(files_of)), index.size, index.channels),
        strict=True,
      )
    )
  close = 0
  for name, image in named:
    try:
      verdict = index.check(image)
    except ValueError as error:
      raise inputs.InputError(f'--check: {name}: {error}') from error
    close += verdict.too_close
    print(json.dumps({'image': name, **dataclasses.asdict(verdict)}))
  return close


def serve(index: guard.Index, address: str) -> None:
  """Answers until it is stopped."""
  host, _, port = address.rpartition(':')
  if not port.isdigit() or not 0 < int(port) < 2**16:
    raise inputs.InputError(f'--serve={inputs.one_line(address)}: no HOST:PORT')
  try:
    import uvicorn

    from jaxdiff.guard import service
  except ImportError as error:
    raise inputs.InputError(
      f'--serve: {error.name} is not installed: JAXDIFF_EXTRAS=guard before '
      "launch/local.sh, or pip install 'jaxdiff[guard]'"
    ) from error
  uvicorn.run(
    service.make(index), host=host or '127.0.0.1', port=int(port),
    log_level='warning', limit_concurrency=_MOST_CLIENTS,
  )  # fmt: skip


if __name__ == '__main__':
  plain.start(work)
