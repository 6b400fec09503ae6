"""Signs of mode collapse: classes that a generator leaves out, images that hardly differ.

What a class is, a trained classifier says; how far images lie apart is measured between its
features, or between pixels where there is none. All in float64 on the host.
"""

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "ENOUGH",
    "least_class_share",
    "mean_squared_distance",
    "relative_spread",
]

#: Fewer examples of a class than this say nothing of it. Where so many are to be expected, fewer
#: than a fifth of them come by chance once in 2,000 times (a Poisson variable of mean 10 is 0 or
#: 1). And the spread of so many has a standard error of 1 / sqrt(2 * 9 * directions) where a class
#: varies in that many directions alike: a quarter for one, and less for more.
ENOUGH = 10


def least_class_share(predicted: ArrayLike, real: ArrayLike) -> float:
    """The share of the class that samples have least of, to that of real images.

    `min_c (n_c / N) / (m_c / M)` of n_c among N samples and m_c among M real images, over the
    classes of which `ENOUGH` samples are to be expected: `N m_c / M >= ENOUGH`. One classifier
    should name both, [N] and [M] integers, as it then errs alike on both.

    Returns:
      0 where a class is missing, 1 where samples have each as often; NaN where no class has enough.

    Reference:
      Che et al. 2016, Mode Regularized Generative Adversarial Networks, arXiv:1612.02136, who count
      missing modes by a classifier.
    """
    samples, reference = np.asarray(predicted), np.asarray(real)
    classes, counts = np.unique(reference, return_counts=True)
    expected = counts * (len(samples) / max(1, len(reference)))
    shares = [
        np.count_nonzero(samples == c) / count
        for c, count in zip(classes, expected, strict=True)
        if count >= ENOUGH
    ]
    return float(min(shares)) if shares else float("nan")


def mean_squared_distance(points: ArrayLike) -> float:
    """The mean squared distance of two different points of a set.

    `1 / (N (N - 1)) sum_{i != j} |x_i - x_j|^2 = 2 / (N - 1) sum_i |x_i - mean|^2`: twice the trace
    of the covariance, so N^2 distances of points [N, F] need not be taken. NaN for fewer than two.
    """
    values = np.asarray(points).astype(np.float64)
    if len(values) < 2:
        return float("nan")
    return float(2.0 * values.var(axis=0, ddof=1).sum())


def relative_spread(
    samples: ArrayLike, sample_classes: ArrayLike, real: ArrayLike, real_classes: ArrayLike
) -> float:
    """How far samples of a class lie apart, to how far real images of it do.

    The mean over classes of `sqrt(D_samples / D_real)`, where D is `mean_squared_distance` within
    the class. Classes with fewer than `ENOUGH` examples on either side are left out; where that
    leaves none, all samples are one class, and so are all real images. Samples [N, F] and real
    images [M, F] are features or pixels.

    Returns:
      1 where samples are as varied as real images, 0 where they are all alike; NaN where there
      are fewer than two of either, or the real images do not differ.

    Reference:
      Odena et al. 2017, arXiv:1610.09585, section 4.2, who compare, class by class, the mean
      similarity (MS-SSIM) of pairs of samples with that of pairs of real images.
    """
    points = [np.asarray(samples), np.asarray(real)]
    classes = [np.asarray(sample_classes), np.asarray(real_classes)]
    pairs = []
    for c in np.unique(classes[1]):
        pair = [x[of == c] for x, of in zip(points, classes, strict=True)]
        if min(map(len, pair)) >= ENOUGH:
            pairs.append(pair)
    ratios = []
    for fake, true in pairs or [points]:
        apart = mean_squared_distance(true)
        if apart > 0:
            ratios.append(np.sqrt(mean_squared_distance(fake) / apart))
    return float(np.mean(ratios)) if ratios else float("nan")
