"""AUROCs on one set of labels: how sure they are and whether two differ, without resampling.

DeLong et al. 1988 (Biometrics 44), with Obuchowski's 1997 sums (Biometrics 53) where several rows belong to one
question: of rows that stand alone they are the same.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

_Z = float(norm.ppf(0.975))


def auroc_covariance(
    scores: Sequence[np.ndarray], y: np.ndarray, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The AUROC of each of k scores, and their covariance.

    Args:
        scores: k vectors (n,), higher for what is thought right.
        y: (n,) labels 0 or 1.
        groups: (n,) the question of each row; None: every row is one.

    Returns:
        (k,) and (k, k) float64; NaN where a class is missing, and the covariance also where a class is found in
        one question only.
    """
    k, right = len(scores), y == 1
    _, question = np.unique(np.arange(y.size) if groups is None else groups, return_inverse=True)
    counts = [int(rows.sum()) for rows in (right, ~right)]
    if not all(counts):
        return np.full(k, np.nan), np.full((k, k), np.nan)
    placements = np.array([_placements(score, right) for score in scores])
    aurocs = placements[:, right].mean(axis=1)
    # Per question: how far its right rows (and its wrong ones) stand from the mean, in all.
    away = placements - aurocs[:, None]
    sums = [
        np.array([np.bincount(question[rows], weights=row[rows], minlength=question.max() + 1) for row in away])
        for rows in (right, ~right)
    ]
    held = [np.unique(question[rows]).size for rows in (right, ~right)]
    if min(held) < 2:
        return aurocs, np.full((k, k), np.nan)
    of_right, of_wrong = (
        count / (count - 1) * (one @ one.T) / rows**2 for one, count, rows in zip(sums, held, counts, strict=True)
    )
    questions = int(question.max()) + 1
    both = questions / (questions - 1) * (sums[0] @ sums[1].T) / (counts[0] * counts[1])
    return aurocs, of_right + of_wrong + both + both.T


def auroc_interval(p: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """The 95 % interval of an AUROC, on the log-odds scale; (NaN, NaN) where it has none or is exactly 0 or 1."""
    (auroc,), covariance = auroc_covariance([p], y, groups)
    return _on_log_odds(auroc, covariance[0, 0])


def _on_log_odds(auroc: float, variance: float) -> tuple[float, float]:
    if not 0 < auroc < 1 or np.isnan(variance):
        return float("nan"), float("nan")
    spread = np.sqrt(variance) / (auroc * (1 - auroc))
    low, high = expit(logit(auroc) + np.array([-_Z, _Z]) * spread)
    return float(low), float(high)


def auroc_within(
    p: np.ndarray, y: np.ndarray, parts: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float, float]:
    """The AUROC over pairs that lie in one part, with its 95 % interval as `auroc_interval` has it.

    What is said out of fold comes from as many fits as there are folds, whose levels are on no common scale. Pairs
    across folds are then biased downwards (Parker, Guenter and Bedo, BMC Bioinformatics 8:326, 2007): a probe that has
    learned nothing says a little less where the fold it did not see has more right answers than the others.

    Args:
        p, y: (n,) confidences and labels.
        parts: (n,) which part each row lies in; a question lies in one.
        groups: (n,) the question of each row.
    """
    pairs, aurocs, variances = [], [], []
    for part in np.unique(parts):
        here = parts == part
        right = int((y[here] == 1).sum())
        count = right * (int(here.sum()) - right)
        if count:
            (auroc,), covariance = auroc_covariance([p[here]], y[here], None if groups is None else groups[here])
            pairs.append(count)
            aurocs.append(auroc)
            variances.append(covariance[0, 0])
    if not pairs:
        return float("nan"), float("nan"), float("nan")
    share = np.array(pairs) / sum(pairs)
    auroc = float(share @ np.array(aurocs))
    return auroc, *_on_log_odds(auroc, float(share**2 @ np.array(variances)))


def delong_test(p: np.ndarray, q: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> float:
    """The two-sided p-value for equal AUROCs of two confidences (n,) in the same labels (n,); NaN without a spread."""
    (first, second), covariance = auroc_covariance([p, q], y, groups)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if not variance > 1e-15:
        return 1.0 if first == second else float("nan")
    return float(2 * norm.sf(abs(first - second) / np.sqrt(variance)))


def _placements(score: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(n,) for a right row the share of wrong ones below it, for a wrong row that of right ones above; ties half."""
    ranks = rankdata(score)
    placements = np.empty(score.size)
    for rows, others in ((right, ~right), (~right, right)):
        placements[rows] = (ranks[rows] - rankdata(score[rows])) / others.sum()
    placements[~right] = 1 - placements[~right]
    return placements
