"""The guard: exact answers, a file that is whole or refused, a service."""

import concurrent.futures
import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
from PIL import Image
import pytest
import uvicorn

from jaxdiff import guard, inputs
from jaxdiff.guard import index as index_lib
from jaxdiff.guard import index_file, service
from tests import processes


@pytest.fixture(scope='module')
def images():
  """Images in clusters, some of them twice: uint8 [700, 9, 9, 3]."""
  rng = np.random.default_rng(0)
  shapes = rng.integers(0, 256, (20, 9, 9, 3))
  noise = rng.normal(0.0, 25.0, (700, 9, 9, 3))
  out = np.clip(shapes[rng.integers(0, 20, 700)] + noise, 0, 255)
  out = out.astype(np.uint8)
  out[600:640] = out[:40]
  return out


@pytest.fixture(scope='module')
def built(tmp_path_factory, images):
  root = tmp_path_factory.mktemp('guard')
  np.savez(root / 'training.npz', images=images[:640])
  index = guard.build(
    str(root / 'training.npz'), str(root / 'index'), flip=True, neighbours=10
  )
  return index, root / 'index'


def png(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def naive(query, images, flip, neighbours):
  """Equation (1) by a loop over distinct images."""
  best = {}
  for row, image in enumerate(images):
    key = image.tobytes()
    for version in (query, query[:, ::-1])[: 2 if flip else 1]:
      difference = (image.astype(float) - version) / 255.0
      distance = np.sqrt(np.square(difference).mean())
      if distance < best.get(key, (np.inf,))[0]:
        best[key] = (distance, row)
  nearest = sorted(best.values())[:neighbours]
  return nearest[0][0], nearest[0][0] / np.mean([d for d, _ in nearest])


def test_answers_are_those_of_a_loop(built, images):
  index, _ = built
  rng = np.random.default_rng(1)
  strange = rng.integers(0, 256, (3, 9, 9, 3), np.uint8)
  for query in (*images[640:652], *strange, np.zeros((9, 9, 3), np.uint8)):
    verdict = index.check(query)
    distance, ratio = naive(query, images[:640], True, 10)
    assert verdict.distance == pytest.approx(distance, abs=1e-6)
    assert verdict.ratio == pytest.approx(ratio, abs=1e-6)
    assert verdict.too_close == (distance <= 0.02 or ratio < 0.5)
    assert verdict.name == f'training.npz[{verdict.index}]'


@pytest.mark.parametrize('spread', [2.0, 40.0])
def test_answers_are_exact_whatever_the_bounds_rule_out(
  tmp_path, monkeypatch, spread
):
  """By few coordinates, by many, pixel by pixel: of few images and of all."""
  monkeypatch.setattr(index_lib, '_PIECE', 8)
  monkeypatch.setattr(index_lib, '_FIRST', 2)
  monkeypatch.setattr(index_lib, '_MOST_PIXELS', 400 * 32)
  rng = np.random.default_rng(0)
  y, x = np.meshgrid(np.arange(40) / 40, np.arange(40) / 40, indexing='ij')
  # Waves of falling size: coordinates beyond the 31st still say something.
  waves = np.stack([
    np.sin(np.pi * (i * y + j * x)) / (1 + i + j)
    for i in range(9) for j in range(9)
  ])  # fmt: skip
  field = 2 * np.tensordot(rng.normal(size=(2010, 81)), waves, 1)
  field = field + spread / 40 * rng.normal(size=field.shape)
  pixels = np.clip(128 + 20 * field, 0, 255).astype(np.uint8)
  np.savez(tmp_path / 'training.npz', images=pixels[:2000])
  index = guard.build(
    str(tmp_path / 'training.npz'), str(tmp_path / 'index'), near=0.0,
    neighbours=5,
  )  # fmt: skip
  # 2,000 images bear no more coordinates.
  assert index._features.shape[1] == 63 and index._coarse.shape[1] == 32
  compared, bounds = [], []
  squared, bound = index._squared, index._bound

  def count(query, rows):
    compared.append(rows)
    return squared(query, rows)

  def keep(*args):
    bounds.append(bound(*args))
    return bounds[-1].copy()

  monkeypatch.setattr(index, '_squared', count)
  monkeypatch.setattr(index, '_bound', keep)
  train, ruled_out = pixels[:2000].astype(float), []
  for query in (*pixels[2000:], pixels[7], 255 - pixels[3]):
    compared.clear()
    bounds.clear()
    verdict = index.check(query[..., None])
    exact = np.square(train - query).sum(axis=(1, 2))
    distance = np.sqrt(exact / 1600) / 255.0
    rows = np.argsort(distance, kind='stable')[:5]
    assert verdict.index == rows[0]
    assert verdict.distance == pytest.approx(distance[rows[0]], abs=1e-6)
    mean = distance[rows].mean()
    assert verdict.ratio == pytest.approx(distance[rows[0]] / mean, abs=1e-6)
    # None twice.
    every = np.concatenate(compared)
    assert len(np.unique(every)) == len(every)
    assert set(rows) <= set(every)
    # No bound is above what it bounds; few coordinates rule some images out,
    # many more of them.
    coarse, _, left = bounds
    assert (coarse <= exact).all() and coarse.max() > 0.5 * exact.max()
    ruled_out.append((1 - len(left) / 2000, 1 - len(every) / 2000))
  few, many = np.median(ruled_out, axis=0)
  assert 0.05 < few < 0.999 and few < many


def test_copies_are_too_close_and_new_images_are_not(built, images):
  index, _ = built
  for row in (3, 620):
    verdict = index.check(png(images[row]))
    assert verdict.too_close and verdict.distance == 0.0
    assert verdict.index == row % 600 and not verdict.mirrored
  mirrored = index.check(np.ascontiguousarray(images[5][:, ::-1]))
  assert mirrored.too_close and mirrored.mirrored and mirrored.index == 5
  noisy = images[9].astype(int) + np.random.default_rng(2).integers(
    -9, 10, images[9].shape
  )
  assert index.check(np.clip(noisy, 0, 255).astype(np.uint8)).too_close
  fresh = [index.check(image).too_close for image in images[640:]]
  assert not any(fresh)


def test_sums_of_large_images_do_not_overflow(tmp_path):
  images = np.zeros((12, 256, 256, 3), np.uint8)
  images += np.arange(12, dtype=np.uint8)[:, None, None, None]
  np.savez(tmp_path / 'large.npz', images=images)
  index = guard.build(
    str(tmp_path / 'large.npz'), str(tmp_path / 'index'), image_size=256,
    near=0.0, neighbours=3,
  )  # fmt: skip
  verdict = index.check(np.full((256, 256, 3), 255, np.uint8))
  assert verdict.index == 11
  assert verdict.distance == pytest.approx(244 / 255)
  # Training images are nobody else's to read.
  assert (tmp_path / 'index').stat().st_mode & 0o077 == 0


def test_a_larger_image_is_compared_at_the_index_s_size(built, images):
  index, _ = built
  large = images[7].repeat(8, axis=0).repeat(8, axis=1)
  assert index.check(png(large)).index == 7
  grey = np.full((20, 30, 1), 128, np.uint8)
  assert not index.check(grey).too_close


@pytest.mark.parametrize(
  ('image', 'message'),
  [
    (b'', 'no whole image'), (b'x' * 100, 'no whole image'),
    (np.zeros((3, 3), np.uint8), 'must be uint8'),
    (np.zeros((3, 3, 3)), 'must be uint8'),
    (np.zeros((0, 3, 3), np.uint8), 'must be uint8'),
  ],
)  # fmt: skip
def test_what_is_no_image_is_refused(built, image, message):
  with pytest.raises(ValueError, match=message):
    built[0].check(image)


def test_a_file_is_loaded_as_it_was_built(built, images):
  index, path = built
  again = guard.load(str(path))
  assert len(again) == 640 and again.neighbours == 10 and again.flip
  for image in images[640:650]:
    assert again.check(image) == index.check(image)
  with pytest.raises(inputs.InputError, match='exists'):
    guard.build('/nowhere', str(path))
  assert not list(path.parent.glob('.*.tmp'))


@pytest.mark.parametrize(
  'where', ['magic', 'version', 'header', 'array', 'end']
)
def test_a_damaged_or_foreign_index_is_refused(built, tmp_path, where):
  content = bytearray(built[1].read_bytes())
  place = {'magic': 0, 'version': 15, 'header': 70, 'array': -5000}.get(where)
  if place is None:
    content = content[:-4000]
  else:
    content[place] ^= 1
  path = tmp_path / 'index'
  path.write_bytes(content)
  with pytest.raises(inputs.InputError) as error:
    guard.load(str(path))
  words = {
    'magic': 'is none',
    'version': f'version {index_file.VERSION ^ 1}',
  }
  assert words.get(where, 'is damaged') in str(error.value)
  assert len(str(error.value).splitlines()) == 1


def test_a_failed_build_leaves_nothing(tmp_path, images, monkeypatch):
  np.savez(tmp_path / 'few.npz', images=images[:50])

  def full(*args):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(index_file, 'write', full)
  with pytest.raises(inputs.InputError, match='No space left'):
    guard.build(str(tmp_path / 'few.npz'), str(tmp_path / 'index'))
  assert [path.name for path in tmp_path.iterdir()] == ['few.npz']


@contextlib.contextmanager
def served(index):
  """(path, body or None) -> status and text, from a server on this machine."""
  address = processes.free_address()
  port = int(address.rpartition(':')[2])
  server = uvicorn.Server(
    uvicorn.Config(
      service.make(index), host='127.0.0.1', port=port, log_level='error'
    )
  )
  thread = threading.Thread(target=server.run)
  thread.start()
  while not server.started:
    time.sleep(0.01)

  def ask(path, body=None):
    request = urllib.request.Request(f'http://127.0.0.1:{port}{path}', body)
    try:
      with urllib.request.urlopen(request) as answer:
        return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
      return error.code, error.read().decode()

  yield ask
  server.should_exit = True
  thread.join()


def test_the_service_answers_many_at_once(built, images):
  index, _ = built
  with served(index) as ask:
    assert json.loads(ask('/health')[1]) == {'status': 'ok', 'images': 640}
    queries = [images[k] for k in (*range(10), *range(640, 650))]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      answers = list(pool.map(lambda x: ask('/check', png(x)), queries))
    for query, (status, text) in zip(queries, answers, strict=True):
      assert status == 200
      assert json.loads(text) == dataclasses.asdict(index.check(query))
    status, text = ask('/check', b'no image')
    assert status == 400 and 'no whole image' in text
    assert ask('/check')[0] == 405
    text = ask('/metrics')[1]
    assert 'jaxdiff_guard_images_total{verdict="too_close"} 10.0' in text
    assert 'jaxdiff_guard_images_total{verdict="refused"} 1.0' in text


def test_a_body_beyond_all_images_is_refused(built, monkeypatch):
  monkeypatch.setattr(index_lib, 'MOST_BYTES', 1000)
  with served(built[0]) as ask:
    assert ask('/check', b'x' * 1001)[0] == 413


@pytest.mark.slow
def test_the_command_builds_checks_and_says_what_is_wrong(tmp_path, images):
  np.savez(tmp_path / 'training.npz', images=images[:600])
  rng = np.random.default_rng(3)
  strange = rng.integers(0, 256, images[:2].shape, np.uint8)
  np.savez(tmp_path / 'some.npz', images=[images[2], strange[0]])

  def run(*flags, **more):
    return subprocess.run(
      [sys.executable, '-m', 'launch.guard', f'--index={tmp_path / "index"}',
       *flags],
      cwd=processes.ROOT, capture_output=True, check=False,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'}, **more,
    )  # fmt: skip

  none = run('--check=x')
  assert none.returncode == 2 and b'no file' in none.stderr
  built = run(
    f'--build={tmp_path / "training.npz"}', f'--check={tmp_path / "some.npz"}'
  )
  assert built.returncode == 3, built.stderr
  first, *lines = built.stdout.decode().splitlines()
  assert first.endswith('600 images')
  assert [json.loads(line)['too_close'] for line in lines] == [True, False]
  clear = run('--check=-', input=png(strange[1]))
  assert clear.returncode == 0, clear.stderr
  assert run('--serve=nowhere').returncode == 2
  fixed = run('--check=-', '--near=0.1')
  assert fixed.returncode == 2 and b'--near: is fixed' in fixed.stderr
