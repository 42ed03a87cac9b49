"""A GAN's training step beside the same nets and losses in torch.

    JAXDIFF_EXTRAS=bench launch/local.sh python -m tests.benchmarks.gan_step

The nets of configs/digits_gan.py (`mlp`) and of its `:conv`: forward, both
penalties with their second derivatives, Adam, the weight average; one model, a
batch of 64. torch runs in eager mode on both cores, JAX on one device with
both. Runs alternate; medians of --repeats.
"""

import argparse

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from configs import digits_gan
from jaxdiff import plans as plans_lib
from jaxdiff.runtime import mesh
from jaxdiff.training import block_states, input_pipeline, loop
from tests.benchmarks import timing

STEPS = 20


def act(x):
  return functional.leaky_relu(x, 0.2)


class Mlp(nn.Module):
  """Hidden layers of both nets."""

  def __init__(self, inputs, widths):
    super().__init__()
    sizes = [inputs, *widths]
    self.layers = nn.ModuleList(
      nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
    )

  def forward(self, x):
    for layer in self.layers:
      x = act(layer(x))
    return x


class Block(nn.Module):
  """As models/gan.py's ResidualBlock."""

  def __init__(self, width):
    super().__init__()
    self.conv1 = nn.Conv2d(width, 2 * width, 1)
    self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
    self.conv3 = nn.Conv2d(2 * width, width, 1, bias=False)

  def forward(self, x):
    return x + self.conv3(act(self.conv2(act(self.conv1(act(x))))))


class Generator(nn.Module):
  """As models/gan.py's."""

  def __init__(self, c):
    super().__init__()
    self.mlp, z = c.model.net == 'mlp', c.model.latent_size
    widths = tuple(c.model.generator_channels)
    self.embed = nn.Embedding(10, z)
    if self.mlp:
      self.body = Mlp(2 * z, widths)
      self.out = nn.Linear(widths[-1], 64)
      return
    scale = 8 // 2 ** (len(widths) - 1)
    self.basis = nn.Parameter(torch.randn(widths[0], scale, scale))
    self.project = nn.Linear(2 * z, widths[0], bias=False)
    self.blocks = nn.ModuleList(Block(width) for width in widths)
    self.widen = nn.ModuleList(
      nn.Conv2d(a, b, 1, bias=False)
      for a, b in zip(widths[:-1], widths[1:], strict=True)
    )
    self.out = nn.Conv2d(widths[-1], 1, 1, bias=False)

  def forward(self, z, labels):
    z = torch.cat([z, self.embed(labels)], 1)
    if self.mlp:
      return torch.tanh(self.out(self.body(z))).view(-1, 1, 8, 8)
    h = self.basis * self.project(z)[:, :, None, None]
    h = self.blocks[0](h)
    for widen, block in zip(self.widen, self.blocks[1:], strict=True):
      h = functional.interpolate(
        widen(h), scale_factor=2, mode='bilinear', align_corners=False
      )
      h = block(h)
    return torch.tanh(self.out(h))


class Discriminator(nn.Module):
  """As models/gan.py's."""

  def __init__(self, c):
    super().__init__()
    self.mlp = c.model.net == 'mlp'
    widths = tuple(c.model.discriminator_channels)
    self.embed = nn.Embedding(10, widths[-1])
    self.features = nn.Linear(widths[-1], widths[-1])
    if self.mlp:
      self.body = Mlp(64, widths)
      return
    sizes = (1, *widths)
    self.widen = nn.ModuleList(
      nn.Conv2d(a, b, 1, bias=False)
      for a, b in zip(sizes[:-1], sizes[1:], strict=True)
    )
    self.blocks = nn.ModuleList(Block(width) for width in widths)
    scale = 8 // 2 ** (len(widths) - 1)
    self.basis = nn.Parameter(torch.randn(widths[-1], scale, scale) / scale)

  def forward(self, x, labels):
    if self.mlp:
      h = self.body(x.flatten(1))
    else:
      for level, (widen, block) in enumerate(
        zip(self.widen, self.blocks, strict=True)
      ):
        h = block(widen(x if not level else functional.avg_pool2d(h, 2)))
      h = (h * self.basis).sum((2, 3))
    h = self.features(h)
    return (h * self.embed(labels)).sum(1) / h.shape[1] ** 0.5


def torch_steps(c, images, labels):
  """() -> None: some steps in torch."""
  torch.manual_seed(0)
  nets = Generator(c), Discriminator(c)
  averages = [torch.optim.swa_utils.AveragedModel(
    net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
  ) for net in nets]  # fmt: skip
  optimisers = [
    torch.optim.Adam(net.parameters(), 2e-3, betas=(0.0, 0.99)) for net in nets
  ]
  generator, discriminator = nets
  x0 = torch.tensor(images / 127.5 - 1.0, dtype=torch.float32)[:, None, ..., 0]
  y0 = torch.tensor(labels, dtype=torch.long)
  softplus = functional.softplus

  def run():
    for _ in range(STEPS):
      rows = torch.randint(0, len(x0), (c.train.batch_size,))
      x, y = x0[rows].requires_grad_(), y0[rows]
      fake = generator(torch.randn(len(x), c.model.latent_size), y)
      made = fake.detach().requires_grad_()
      real, judged = discriminator(x, y), discriminator(made, y)
      penalty = sum(
        torch.autograd.grad(score.sum(), of, create_graph=True)[0]
        .square().sum((1, 2, 3))
        for score, of in ((real, x), (judged, made))
      )  # fmt: skip
      loss = (softplus(judged - real) + 0.5 * c.train.gamma * penalty).mean()
      of_d = torch.autograd.grad(loss, list(discriminator.parameters()))
      score = softplus(real.detach() - discriminator(fake, y)).mean()
      of_g = torch.autograd.grad(score, list(generator.parameters()))
      for net, grads, optimiser, average in zip(
        nets, (of_g, of_d), optimisers, averages, strict=True
      ):
        for weight, grad in zip(net.parameters(), grads, strict=True):
          weight.grad = grad
        optimiser.step()
        average.update_parameters(net)

  return run


def jax_steps(c, plan):
  """() -> None: some steps here."""
  grid = mesh.make(1, jax.devices()[:1])
  keep = plan.examples.keep[:1]
  state = block_states.init_slots(plan, range(1), grid)[0]
  rows = input_pipeline.own_rows(plan, range(1), keep, grid)[0]
  pixels = next(input_pipeline.feed(plan, range(1), keep, grid, 0))
  step = loop.make_step_fn(plan, grid, keep)
  held = [state]

  def run():
    for _ in range(STEPS):
      held[0], metrics = step(held[0], rows, pixels)
    jax.block_until_ready((held[0], metrics))

  return run


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--repeats', type=int, default=9)
  repeats = parser.parse_args().repeats
  mesh.use_cpu_devices(1)
  for net in ('mlp', 'conv'):
    c = digits_gan.get_config('conv' if net == 'conv' else None)
    c.num_models = 1
    plan = plans_lib.make(c).subject.train
    rows = np.flatnonzero(plan.examples.keep[0])
    sizes = jax.eval_shape(plan.init_fn, jax.random.key(0))
    ours = jax_steps(c, plan)
    theirs = torch_steps(
      c, plan.examples.images[rows], plan.examples.labels[rows]
    )
    seconds = timing.medians(repeats, ours=ours, torch=theirs)
    timing.emit(
      f'gan_step_{net}', seconds['ours'] / STEPS, 'torch',
      seconds['torch'] / STEPS,
      parameters=sum(leaf.size for leaf in jax.tree.leaves(sizes)),
    )  # fmt: skip


if __name__ == '__main__':
  main()
