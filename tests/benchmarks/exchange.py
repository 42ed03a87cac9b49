"""Folders that we write, loaded by diffusers: the same numbers on both sides.

    JAXDIFF_EXTRAS=bench launch/local.sh python -m tests.benchmarks.exchange

One line a UNet2DModel configuration of tests/goldens/unet_configs.py: largest
difference of a forward pass (`exact`: below 1e-4), after our folder went
through `DDPMPipeline.from_pretrained`, and after diffusers' `save_pretrained`
came back through our reader.
"""

import json
import pathlib
import tempfile

import diffusers
import jax
import numpy as np
import torch

from jaxdiff.interop import diffusers as interop
from jaxdiff.interop import diffusers_weights
from jaxdiff.models import unet
from tests.goldens import unet_configs


def main() -> None:
  for name, config in unet_configs.UNETS.items():
    size = 32 if name == 'cifar10' else 8
    net = unet.UNet(**config)
    shape = (size, size, 3)
    state = unet_configs.weights(diffusers_weights.shapes(net, shape))
    ours = interop.Pretrained(
      net, diffusers_weights.from_state_dict(state, net, shape), shape,
      diffusion={
        'beta_schedule': 'linear', 'num_train_timesteps': 1000,
        'beta_start': 1e-4, 'beta_end': 0.02, 'prediction_type': 'epsilon',
      },
      sample={
        'timestep_spacing': 'leading', 'clip_sample': True,
        'variance': 'learned_range' if net.out_channels == 6 else 'small',
      },
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
      written = pathlib.Path(folder) / 'ours'
      interop.write(str(written), ours)
      pipe = diffusers.DDPMPipeline.from_pretrained(written)
      pipe.save_pretrained(pathlib.Path(folder) / 'theirs')
      back = interop.read(str(pathlib.Path(folder) / 'theirs'))
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2, *shape), np.float32), np.array([3, 900])
    labels = (
      np.array([1, 4])
      if (net.num_class_embeds or net.class_embed_type)
      else None
    )
    with torch.no_grad():
      theirs = pipe.unet(
        torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(t),
        class_labels=None if labels is None else torch.from_numpy(labels),
      ).sample.numpy().transpose(0, 2, 3, 1)  # fmt: skip
    apart = {
      way: float(np.abs(np.asarray(
        jax.jit(one.net.apply)(one.params, x, t, labels)) - theirs).max())
      for way, one in (('out', ours), ('back', back))
    }  # fmt: skip
    line = {'name': f'exchange {name}', **apart}
    line['exact'] = max(apart.values()) < 1e-4
    line['scheduler'] = back.sample == ours.sample
    print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
