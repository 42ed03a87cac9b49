"""Twins of attacks/membership/signals/: float64 NumPy, a loop for every sum.

`eps_hat(x [B, H, W, C], t)` is a noise predictor, `abar` the table of
alphas_cumprod, noise comes as arrays [B, H, W, C].
"""

import numpy as np


def add_noise(abar, x, eps, t):
  return np.sqrt(abar[t]) * x + np.sqrt(1.0 - abar[t]) * eps


def ddim(abar, x, eps, start, end):
  x0 = (x - np.sqrt(1.0 - abar[start]) * eps) / np.sqrt(abar[start])
  return np.sqrt(abar[end]) * x0 + np.sqrt(1.0 - abar[end]) * eps


def norm4(x):
  return np.array([(np.abs(one) ** 4).mean() ** 0.25 for one in x])


def loss(eps_hat, abar, x0, eps, t):
  error = (eps_hat(add_noise(abar, x0, eps, t), t) - eps) ** 2
  return np.array([one.mean() for one in error])


def secmi(eps_hat, abar, x0, t, stride):
  x = x0
  for start in range(0, t, stride):
    x = ddim(abar, x, eps_hat(x, start), start, start + stride)
  up = ddim(abar, x, eps_hat(x, t), t, t + stride)
  back = ddim(abar, up, eps_hat(up, t + stride), t + stride, t)
  return np.array([one.mean() for one in (back - x) ** 2])


def pia(eps_hat, abar, x0, t, normalised=False):
  eps = eps_hat(x0, 0)
  if normalised:
    count = eps[0].size
    for one in eps:
      one *= count * np.sqrt(2.0 / np.pi) / np.abs(one).sum()
  return norm4(eps_hat(add_noise(abar, x0, eps, t), t) - eps)


def sima(eps_hat, x0, t):
  return norm4(eps_hat(x0, t))


def crop(image, share):
  """Bilinear, pixel by pixel; pixel centres lie at half-integers."""
  height, width, _ = image.shape
  out = np.empty_like(image)
  for i in range(height):
    for j in range(width):
      y = height / 2 + (i + 0.5 - height / 2) * share - 0.5
      x = width / 2 + (j + 0.5 - width / 2) * share - 0.5
      top, left = int(np.floor(y)), int(np.floor(x))
      total, weights = 0.0, 0.0
      for row, wy in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, wx in ((left, 1 - (x - left)), (left + 1, x - left)):
          if 0 <= row < height and 0 <= column < width:
            total += wy * wx * image[row, column]
            weights += wy * wx
      out[i, j] = total / weights
  return out


def pfami(eps_hat, abar, x0, eps, t, shares):
  own = loss(eps_hat, abar, x0, eps, t)
  fluctuations = [
    own - loss(eps_hat, abar, np.stack([crop(x, s) for x in x0]), eps, t)
    for s in shares
  ]
  return sum(fluctuations) / len(shares)


def rediffuse(eps_hat, abar, x0, noise, t, stride):
  total = 0.0
  for eps in noise:
    x, now = add_noise(abar, x0, eps, t), t
    while now > stride:
      x = ddim(abar, x, eps_hat(x, now), now, now - stride)
      now -= stride
    x = (x - np.sqrt(1.0 - abar[now]) * eps_hat(x, now)) / np.sqrt(abar[now])
    total = total + x
  error = (x0 - total / len(noise)) ** 2
  return np.array([np.sqrt(one.mean()) for one in error])


def whole_crop(image, share):
  """Whole pixels of the centre, stretched bilinearly; edges keep theirs."""
  height, width, _ = image.shape
  rows, columns = int(height * share), int(width * share)
  top, left = round((height - rows) / 2), round((width - columns) / 2)
  part = image[top : top + rows, left : left + columns]
  out = np.empty_like(image)
  for i in range(height):
    for j in range(width):
      y = np.clip((i + 0.5) * rows / height - 0.5, 0, rows - 1)
      x = np.clip((j + 0.5) * columns / width - 0.5, 0, columns - 1)
      a, b = int(y), int(x)
      c, d = min(a + 1, rows - 1), min(b + 1, columns - 1)
      upper = part[a, b] * (1 - (x - b)) + part[a, d] * (x - b)
      lower = part[c, b] * (1 - (x - b)) + part[c, d] * (x - b)
      out[i, j] = upper * (1 - (y - a)) + lower * (y - a)
  return out


def pfami_published(eps_hat, abar, x0, noise_of, share):
  """Mean over ten timesteps of 1 - L(crop) / L(x0), a noise for each loss."""
  cropped = np.stack([whole_crop(x, share) for x in x0])
  total = 0.0
  for t in range(0, 500, 50):
    own = loss(eps_hat, abar, x0, noise_of(t, 1), t)
    other = loss(eps_hat, abar, cropped, noise_of(t, 2), t)
    total = total + (1.0 - other / own)
  return total / 10


def rediffuse_published(eps_hat, abar, x0, noise):
  """From t = 200 in two steps of 100, down to timestep 0."""
  total = 0.0
  for eps in noise:
    x = add_noise(abar, x0, eps, 200)
    x = ddim(abar, x, eps_hat(x, 200), 200, 100)
    x = ddim(abar, x, eps_hat(x, 100), 100, 0)
    total = total + x
  error = (x0 - total / len(noise)) ** 2
  return np.array([np.sqrt(one.mean()) for one in error])
