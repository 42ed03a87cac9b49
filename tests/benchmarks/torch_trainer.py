"""The peer of `train_step`: diffusers on torch. Alone, it prints its MB."""

import argparse

from tests.benchmarks import nets, timing


def make(case: nets.Case, steps: int, weights=None):
  """run() of so many steps, from `weights` (a state dict) or random ones."""
  import diffusers
  from diffusers import training_utils
  import torch

  net = case.diffusers().train()
  if weights is not None:
    net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
  optimiser = torch.optim.AdamW(net.parameters(), lr=2e-4, weight_decay=0.0)
  average = training_utils.EMAModel(net.parameters())
  scheduler = diffusers.DDPMScheduler()
  images = torch.from_numpy(case.images()).permute(0, 3, 1, 2).contiguous()

  def run():
    for _ in range(steps):
      rows = torch.randint(0, len(images), (case.batch_size,))
      x0 = images[rows].float() / 127.5 - 1.0
      eps = torch.randn_like(x0)
      t = torch.randint(0, 1000, (case.batch_size,))
      output = net(scheduler.add_noise(x0, eps, t), t).sample
      torch.nn.functional.mse_loss(output, eps).backward()
      torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
      optimiser.step()
      optimiser.zero_grad()
      average.step(net.parameters())

  return run


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--case', choices=nets.CASES, required=True)
  args = parser.parse_args()
  make(nets.CASES[args.case], 3)()
  print(timing.peak_memory())


if __name__ == '__main__':
  main()
