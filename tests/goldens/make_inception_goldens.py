"""Golden features of pytorch-fid's Inception-v3 with made-up weights.

    JAXDIFF_EXTRAS=bench launch/local.sh python -m pip install --no-deps \
      torchvision pytorch-fid
    launch/local.sh python -m tests.goldens.make_inception_goldens

writes tests/data/inception.npz: images, the names and shapes of the weights,
whose values `weights` makes from their names, and the features.
"""

import pathlib

import numpy as np

from tests.goldens import unet_configs


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """As `unet_configs.weights`; variances positive, activations alive."""
  out = unet_configs.weights(shapes)
  for name, value in out.items():
    if name.endswith('running_var'):
      out[name] = np.abs(value) + np.float32(0.5)
    elif name.endswith('conv.weight'):
      out[name] = value * np.float32(np.sqrt(2.0))
  return out


def main() -> None:
  from pytorch_fid import inception
  import torch

  made = {}

  def load(*args, **kwargs):
    del args, kwargs
    return made['state']

  net = inception._inception_v3(
    num_classes=1008, aux_logits=False, weights=None, init_weights=False
  )
  net.Mixed_5b = inception.FIDInceptionA(192, pool_features=32)
  net.Mixed_5c = inception.FIDInceptionA(256, pool_features=64)
  net.Mixed_5d = inception.FIDInceptionA(288, pool_features=64)
  for name, width in (('b', 128), ('c', 160), ('d', 160), ('e', 192)):
    block = inception.FIDInceptionC(768, channels_7x7=width)
    setattr(net, f'Mixed_6{name}', block)
  net.Mixed_7b = inception.FIDInceptionE_1(1280)
  net.Mixed_7c = inception.FIDInceptionE_2(2048)
  state = net.state_dict()
  shapes = {
    name: tuple(value.shape)
    for name, value in state.items()
    if not name.endswith('num_batches_tracked')
  }
  made['state'] = state | {
    name: torch.from_numpy(value) for name, value in weights(shapes).items()
  }
  inception.load_state_dict_from_url = load
  features = inception.InceptionV3().eval()
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
  images[1] = np.arange(0, 256, 8, dtype=np.uint8)[:, None, None]
  with torch.no_grad():
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
    out = features(x)[0][:, :, 0, 0].numpy()
  used = {k: v for k, v in shapes.items() if not k.startswith('fc.')}
  np.savez_compressed(
    pathlib.Path(__file__).parent / 'inception.npz',
    images=images,
    features=out,
    names=np.array(sorted(used)),
    shapes=np.array([str(list(used[name])) for name in sorted(used)]),
  )
  print(out.shape, float(out.std()), float(np.abs(out[0] - out[1]).mean()))


if __name__ == '__main__':
  main()
