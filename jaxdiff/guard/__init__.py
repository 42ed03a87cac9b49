"""Is this image too close to the training set? Asked where images are served.

    index = guard.build('train/', 'train.guard')      # once
    index = guard.load('train.guard')
    verdict = index.check(open('sample.png', 'rb').read())
    verdict.too_close, verdict.distance, verdict.name

An image is too close if its nearest training image is a near-duplicate, or
nearer than chance makes it among so many (paper, section 4.2; `hits`, equation
1):

(1)  d_1 <= near   or   d_1 / mean(d_1 .. d_n) < alpha

d_1 <= d_2 <= ... the distances (RMSE on pixels in [0, 1]) to the nearest
distinct training images. Answers are exact: m coordinates and a residual bound
every distance from below (`pca_bound`, equation 1), few of all images, many of
those that few leave, and every image that neither bound rules out is compared
pixel by pixel.

An index is one file, with a checksum, mapped into memory: processes share it.
It holds the training images themselves.
"""

from jaxdiff.guard.index import Index, Verdict, build, load

__all__ = ['Index', 'Verdict', 'build', 'load']
