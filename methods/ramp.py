"""How the weight of an unlabelled loss grows over training (MixMatch, ReMixMatch)."""


def linear_rampup(epoch: float, length: float) -> float:
    """epoch / length, kept within 0 and 1; 1 where there is no ramp (length 0). Unit of both: epochs.

    Source: MixMatch, section 3.5 (Berthelot et al. 2019).
    """
    return min(max(epoch / length, 0.0), 1.0) if length else 1.0
