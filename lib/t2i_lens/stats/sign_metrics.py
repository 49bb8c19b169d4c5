"""Scores of text editing, as published and corrected: error, PSNR, precision, recall, F1.

"As published" is the computation of the released evaluation of Staniszewski et al. (ICLR 2025),
which differs in places from the names of its scores. Nothing here knows a pipeline or a file.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.optimize import brentq
from scipy.stats import kendalltau, norm
from skimage.metrics import structural_similarity

LEVELS = 256  # values of a byte; 8-bit arithmetic is modulo this
PUBLISHED_EPSILON = (
    1e-10  # added to the error before its logarithm, so identical pictures get 148.13
)

Picture = UInt8[np.ndarray, "height width 3"]
Pictures = UInt8[np.ndarray, "... height width 3"]
PICTURE_AXES = (-3, -2, -1)


def precision_recall(found: Iterable[str], wanted: Iterable[str]) -> tuple[float, float]:
    """Precision and recall of a bag of items found against a bag of items wanted.

    Args:
        found: Items read; a string is a bag of its characters, a list of words one of words.
        wanted: Items that should be there.

    Returns:
        Precision and recall in [0, 1]; 0 where a bag is empty.
    """
    found, wanted = Counter(found), Counter(wanted)
    shared = (found & wanted).total()
    return shared / max(found.total(), 1), shared / max(wanted.total(), 1)


def harmonic_mean(precision: float, recall: float) -> float:
    """F1 of precision and recall; 0 if both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def published_f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    """OCR F1 as published: bags of characters, F1 of the mean precision and the mean recall.

    A string is passed where a list of words is expected, so "tsop" for "stop" scores 1.

    Args:
        found: What the OCR engine reads in each picture.
        wanted: The text that each picture should hold.

    Returns:
        In [0, 1].

    Shown in: notebooks/14_text_metrics.ipynb
    """
    pairs = [precision_recall(a.lower(), b.lower()) for a, b in zip(found, wanted, strict=True)]
    return harmonic_mean(*np.mean(pairs, axis=0).tolist())


def word_f1(found: str, wanted: str) -> float:
    """F1 over the words of one picture, whatever their case and order; mean it over pictures.

    Shown in: notebooks/14_text_metrics.ipynb
    """
    return harmonic_mean(*precision_recall(found.lower().split(), wanted.lower().split()))


def published_clip_t(cosines: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """CLIP-T as published: 2.5 max(cos, 0), CLIPScore's scaling (Hessel et al. 2021).

    Args:
        cosines: Of picture and full target prompt.

    Returns:
        In [0, 2.5]; the order of pictures with positive cosines is the cosine's own.
    """
    return 2.5 * np.maximum(cosines, 0)


def wrapped_error(first: Pictures, second: Pictures) -> Float[np.ndarray, "..."] | float:
    """Mean squared error as published: bytes subtracted and squared as bytes, modulo 256.

    Returns:
        One number per pair of pictures, in [0, 255], grey levels squared. About 105.5 for
        unrelated pictures.

    Shown in: notebooks/14_text_metrics.ipynb
    """
    return np.mean((first - second) ** 2, axis=PICTURE_AXES)


def true_error(
    first: Pictures, second: Pictures, keep: Bool[np.ndarray, "... height width"] | None = None
) -> Float[np.ndarray, "..."] | float:
    """Mean squared error of pictures.

    Args:
        keep: Pixels that count, such as the background of the text; all by default.

    Returns:
        One number per pair of pictures, in [0, 65025], grey levels squared.

    Raises:
        ValueError: no pixel of a picture counts.
    """
    squares = np.square(first.astype(float) - second.astype(float))
    if keep is None:
        return squares.mean(axis=PICTURE_AXES)
    if not keep.any(axis=(-2, -1)).all():
        raise ValueError("the mask leaves no pixel to compare")
    return squares.mean(axis=PICTURE_AXES, where=keep[..., None])


def psnr(error: float | Float[np.ndarray, "..."], epsilon: float = PUBLISHED_EPSILON):
    """Peak signal-to-noise ratio 10 log10(255² / (error + epsilon)) in dB; 148.13 for no error."""
    return 10 * np.log10((LEVELS - 1) ** 2 / (np.asarray(error) + epsilon))


def ssim(first: Picture, second: Picture) -> float:
    """Structural similarity in [-1, 1]: Gaussian window of 11 pixels, as in Wang et al. (2004)."""
    return float(
        structural_similarity(
            first,
            second,
            data_range=LEVELS - 1,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def wrapped_ceiling() -> float:
    """Expected wrapped error of unrelated pictures: E[x² mod 256], x uniform mod 256.

    If either byte is uniform, so is their difference modulo 256. The squares of its 256 values
    leave a mean remainder of 105.5.
    """
    return float(np.mean(np.arange(LEVELS) ** 2 % LEVELS))


def wrapped_noise(
    sd: Float[np.ndarray, " x"],
) -> tuple[Float[np.ndarray, " x"], Float[np.ndarray, " x"]]:
    """True and wrapped error of rounded Gaussian noise that nothing clips.

    Args:
        sd: Standard deviations of the noise, in grey levels, above 0 and below 256.

    Returns:
        E[k²] and E[k² mod 256] for k the rounded noise, each in grey levels squared.
    """
    levels = np.arange(-5 * LEVELS, 5 * LEVELS + 1)
    edges = np.append(levels - 0.5, levels[-1] + 0.5)
    chances = np.diff(norm.cdf(edges / sd[:, None]), axis=1)
    return chances @ (levels**2).astype(float), chances @ (levels**2 % LEVELS).astype(float)


def identical_share(error: float, decibel: float) -> tuple[float, float]:
    """Share of identical pairs, from two means, if all other pairs have the same error.

    Means over pairs are printed. With a share s of identical pairs and an error M of each other,
    error = (1 - s) M and decibel = s PSNR(0) + (1 - s) PSNR(M); there is one solution with s ≥ 0
    if the mean PSNR is no smaller than that of the mean error.

    Args:
        error: Mean squared error as printed, above 0.
        decibel: Mean PSNR as printed.

    Returns:
        s in [0, 1), and M. s is 0 where the mean PSNR is explained without any such pair.

    Raises:
        ValueError: no share gives so high a mean PSNR.

    Shown in: notebooks/14_text_metrics.ipynb
    """
    if decibel <= psnr(error):
        return 0.0, error

    def excess(share: float) -> float:
        return share * psnr(0.0) + (1 - share) * psnr(error / (1 - share)) - decibel

    # The mean PSNR rises with the share, until all others are as wrong as pictures can be.
    share = brentq(excess, 0.0, 1 - error / (LEVELS - 1) ** 2)
    return share, error / (1 - share)


def order_agreement(
    first: Float[np.ndarray, " method"], second: Float[np.ndarray, " method"]
) -> float:
    """Kendall's tau-b of two scores of the same methods: 1 if they order them alike, -1 reversed.

    0 where one of the scores is the same for all methods, so that it orders nothing.
    """
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(kendalltau(first, second).statistic)
