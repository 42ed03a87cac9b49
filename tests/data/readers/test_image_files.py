"""Decoding image files; folders, whole and hostile."""

import io

import numpy as np
from PIL import Image
import pytest

from jaxdiff import inputs
from jaxdiff.data import registry
from jaxdiff.data.readers import decoding, image_files

RNG = np.random.default_rng(0)


def encode(image, kind='PNG', **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def rgb(height=8, width=8):
  return RNG.integers(0, 256, (height, width, 3), np.uint8)


def test_pixels_of_the_right_size_are_untouched():
  pixels = rgb()
  got = decoding.decode(encode(Image.fromarray(pixels)), 8, 3)
  np.testing.assert_array_equal(got, pixels)


def test_the_centre_square_is_cut_out():
  pixels = rgb(8, 14)
  got = decoding.decode(encode(Image.fromarray(pixels)), 8, 3)
  np.testing.assert_array_equal(got, pixels[:, 3:11])
  small = decoding.decode(encode(Image.fromarray(pixels)), 4, 3)
  blocks = pixels[:, 3:11].reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
  assert np.abs(small - blocks).mean() < 25.0  # Lanczos overshoots a little


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_undone(orientation):
  # From how a camera stores it (EXIF 2.3, 4.6.4 A) back to how it looked.
  looks = rgb()
  stored = {
    1: looks, 2: looks[:, ::-1], 3: looks[::-1, ::-1], 4: looks[::-1],
    5: looks.swapaxes(0, 1), 6: np.rot90(looks),
    7: looks[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(looks, -1),
  }[orientation]  # fmt: skip
  exif = Image.Exif()
  exif[0x0112] = orientation
  file = encode(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
  np.testing.assert_array_equal(decoding.decode(file, 8, 3), looks)


def test_every_mode_becomes_colour_or_grey():
  grey = RNG.integers(0, 256, (8, 8), np.uint8)
  got = decoding.decode(encode(Image.fromarray(grey)), 8, 3)
  np.testing.assert_array_equal(got, np.stack([grey] * 3, axis=-1))
  got = decoding.decode(encode(Image.fromarray(grey)), 8, 1)
  np.testing.assert_array_equal(got[..., 0], grey)
  bits = Image.fromarray(grey > 128)
  got = decoding.decode(encode(bits), 8, 1)
  np.testing.assert_array_equal(got[..., 0], 255 * (grey > 128))
  palette = Image.fromarray(rgb()).quantize(16)
  got = decoding.decode(encode(palette), 8, 3)
  np.testing.assert_array_equal(got, np.asarray(palette.convert('RGB')))
  cmyk = Image.fromarray(rgb()).convert('CMYK')
  assert decoding.decode(encode(cmyk, 'TIFF'), 8, 3).shape == (8, 8, 3)


def test_sixteen_bits_keep_their_range():
  wide = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
  got = decoding.decode(encode(Image.fromarray(wide)), 8, 1)[..., 0]
  np.testing.assert_array_equal(got, np.rint(wide / 257.0))


def test_what_is_transparent_is_white():
  pixels = np.dstack([rgb(), np.full((8, 8), 255, np.uint8)])
  pixels[0, :, 3] = 0
  got = decoding.decode(encode(Image.fromarray(pixels)), 8, 3)
  assert (got[0] == 255).all()
  np.testing.assert_array_equal(got[1:], pixels[1:, :, :3])
  flat = Image.fromarray(np.zeros((8, 8), np.uint8)).convert('P')
  got = decoding.decode(encode(flat, transparency=0), 8, 3)
  assert (got == 255).all()


@pytest.mark.parametrize(
  'content', [b'', b'no image', encode(Image.fromarray(rgb(64, 64)))[:-3000]]
)
def test_what_is_no_whole_image_is_refused(content):
  with pytest.raises(ValueError, match='no whole image'):
    decoding.decode(content, 8, 3)


@pytest.mark.parametrize('side', [5000, 9000, 14000])
def test_bombs_are_refused_before_they_unpack(side):
  bomb = encode(Image.new('1', (side, side)))
  assert len(bomb) < 100_000
  with pytest.raises(ValueError, match='too many|exceeds limit'):
    decoding.decode(bomb, 8, 3)


def test_an_honest_blank_image_is_none():
  blank = encode(Image.new('1', (2000, 2000), 1))
  np.testing.assert_array_equal(decoding.decode(blank, 8, 3), 255)


def folder(path, names=('cat/1.png', 'cat/2.jpg', 'dog/a/3.PNG')):
  for name in names:
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    kind = 'JPEG' if name.endswith('jpg') else 'PNG'
    (path / name).write_bytes(encode(Image.fromarray(rgb()), kind))
  return path


def load(path, **options):
  return registry.load(
    registry.Source('image_folder', str(path), image_size=8, **options)
  )


def test_folders_are_classes(tmp_path):
  folder(tmp_path)
  (tmp_path / 'notes.txt').write_text('no image')
  (tmp_path / '.hidden').mkdir()
  (tmp_path / '.hidden' / 'x.png').write_bytes(b'x')
  got = load(tmp_path)
  assert got.source.tolist() == ['cat/1.png', 'cat/2.jpg', 'dog/a/3.PNG']
  assert got.labels.tolist() == [0, 0, 1]
  assert got.num_classes == 2
  assert got.images.shape == (3, 8, 8, 3)
  assert load(tmp_path, channels=1).images.shape == (3, 8, 8, 1)


def test_metadata_names_labels_and_groups(tmp_path):
  folder(tmp_path)
  (tmp_path / image_files.METADATA).write_text(
    'file_name,label,group\ndog/a/3.PNG,b,anna\ncat/1.png,a,ben\n'
    'cat/2.jpg,b,anna\n'
  )
  got = load(tmp_path)
  assert got.source.tolist() == ['dog/a/3.PNG', 'cat/1.png', 'cat/2.jpg']
  assert got.labels.tolist() == [1, 0, 1]
  assert got.group.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('label\na\n', 'file_name'),
    ('file_name\n../outside.png\n', 'leads out'),
    ('file_name\n/etc/hostname\n', 'leads out'),
    ('file_name\nnope.png\n', 'nope.png'),
    ('file_name\ncat\n', 'is no file'),
    ('file_name,Group\ncat/1.png,a\n', "did you mean 'group'"),
    ('file_name, label\ncat/1.png,a\n', "did you mean 'label'"),
    ('file_name,groups\ncat/1.png,a\n', "did you mean 'group'"),
    ('file_name,person\ncat/1.png,a\n', "'person' is unknown"),
    ('file_name,group,group\ncat/1.png,a,b\n', 'twice'),
    ('file_name\ncat/1.png\n./cat/1.png\n', 'line 3.*line 2 again'),
    ('file_name\ncat/1.png\ncat/1.png\n', 'again'),
    ('file_name\ncat/1.png\ndog/../cat/1.png\n', 'again'),
    ('file_name,label\ncat/1.png,\n', 'needs a label'),
    ('', 'metadata.csv'),
  ],
)
def test_bad_metadata_is_named(text, message, tmp_path):
  inside = folder(tmp_path / 'in')
  folder(tmp_path, ['outside.png'])
  (inside / image_files.METADATA).write_text(text)
  with pytest.raises(inputs.InputError, match=message):
    load(inside)


def test_links_out_of_the_folder_are_refused(tmp_path):
  inside = folder(tmp_path / 'in')
  folder(tmp_path, ['secret.png'])
  (inside / 'near.png').symlink_to(inside / 'cat' / '1.png')
  assert len(load(inside)) == 4
  (inside / 'link.png').symlink_to(tmp_path / 'secret.png')
  with pytest.raises(inputs.InputError, match='link.png leads out'):
    load(inside)
  (inside / 'link.png').unlink()
  (inside / 'loop.png').symlink_to(inside / 'loop.png')
  with pytest.raises(inputs.InputError, match='loop.png'):
    load(inside)


def test_broken_images_are_named_or_skipped_and_listed(tmp_path):
  folder(tmp_path)
  (tmp_path / 'cat' / '0.png').write_bytes(b'broken')
  with pytest.raises(inputs.InputError, match=r'cat/0.png.*skip_broken'):
    load(tmp_path)
  got = load(tmp_path, skip_broken=True)
  assert len(got) == 3
  assert [name for name, _ in got.skipped] == ['cat/0.png']
  for file in tmp_path.rglob('*.*'):
    file.write_bytes(b'broken')
  with pytest.raises(inputs.InputError, match='every image'):
    load(tmp_path, skip_broken=True)


def test_an_empty_or_missing_folder_is_named(tmp_path):
  for path in (tmp_path, tmp_path / 'nope', ''):
    with pytest.raises(inputs.InputError, match='data.path'):
      load(path)


@pytest.mark.parametrize(
  'name', ['Metadata.csv', 'metadata.jsonl', 'metadata.CSV', 'cat/metadata.csv']
)
def test_labels_that_would_not_be_read_are_refused(name, tmp_path):
  folder(tmp_path)
  (tmp_path / name).write_text('file_name,group\n')
  with pytest.raises(inputs.InputError, match='read from metadata.csv in the'):
    load(tmp_path)


def test_metadata_that_is_no_file_is_refused(tmp_path):
  folder(tmp_path)
  path = tmp_path / image_files.METADATA
  path.mkdir()
  with pytest.raises(inputs.InputError, match='is a folder'):
    load(tmp_path)
  path.rmdir()
  path.symlink_to(tmp_path / 'nowhere')
  with pytest.raises(inputs.InputError, match='metadata.csv'):
    load(tmp_path)


def test_nothing_is_left_out_in_silence(tmp_path):
  folder(tmp_path)
  (tmp_path / 'cat' / 'x.heic').write_bytes(b'x')
  (tmp_path / '.hidden.png').write_bytes(b'x')
  got = dict(load(tmp_path).skipped)
  assert got['cat/x.heic'].endswith('.heic')
  assert got['.hidden.png'] == 'hidden files'
  (tmp_path / image_files.METADATA).write_text('file_name\ncat/1.png\n')
  got = dict(load(tmp_path).skipped)
  assert got['cat/2.jpg'] == 'image not in metadata.csv'
  assert image_files.METADATA not in got


def test_numbers_are_sorted_as_numbers_and_names_kept(tmp_path):
  names = [f'{i}/a.png' for i in range(12)]
  folder(tmp_path, names)
  got = load(tmp_path)
  by_name = dict(zip(got.source, got.labels, strict=True))
  assert [by_name[name] for name in names] == list(range(12))
  assert got.names == tuple(str(i) for i in range(12))
  rows = ''.join(f'{name},NA,None\n' for name in names)
  (tmp_path / image_files.METADATA).write_text(f'file_name,label,group\n{rows}')
  got = load(tmp_path)
  assert got.names == ('NA',) and got.num_classes == 1


def test_a_dangling_link_is_a_broken_image(tmp_path):
  folder(tmp_path)
  (tmp_path / 'cat' / '3.png').symlink_to(tmp_path / 'nowhere.png')
  with pytest.raises(inputs.InputError, match='3.png'):
    load(tmp_path)
  assert len(load(tmp_path, skip_broken=True)) == 3


def test_other_formats_are_not_decoded_whatever_they_are_called():
  eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n'
  others = [
    encode(Image.fromarray(rgb()), kind) for kind in ('TGA', 'ICO', 'DDS')
  ]
  for content in (eps, *others):
    with pytest.raises(ValueError, match='no whole image'):
      decoding.decode(content, 8, 3)


@pytest.mark.parametrize('high', [1.0, 255.0, 65535.0])
def test_numbers_of_no_stated_range_are_refused(high):
  values = np.linspace(0.0, high, 64, dtype=np.float32).reshape(8, 8)
  with pytest.raises(ValueError, match='no stated range'):
    decoding.decode(encode(Image.fromarray(values), 'TIFF'), 8, 1)
  whole = np.linspace(0, 200, 64).astype(np.int32).reshape(8, 8)
  with pytest.raises(ValueError, match='no 16 bits'):
    decoding.decode(encode(Image.fromarray(whole), 'TIFF'), 8, 1)


def test_names_do_not_forge_lines(tmp_path):
  name = 'a\njaxdiff: done\x1b[2J.png'
  folder(tmp_path)
  (tmp_path / name).write_bytes(b'broken')
  with pytest.raises(inputs.InputError) as error:
    load(tmp_path)
  assert str(error.value).isprintable()
