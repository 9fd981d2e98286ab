"""Prints several scores of a sentence combined by numpy and scipy: the values in schemas/src/opinions.rs.

    python3 -m venv /tmp/opinions && /tmp/opinions/bin/pip install numpy==2.4.6 scipy==1.17.1
    /tmp/opinions/bin/python tests/reference/make_opinion_values.py
"""

import numpy
from scipy.stats import trim_mean

SCORES = [
    [0.7],
    [0.2, 0.9],
    [0.9, 0.2, 0.4],
    [1.0, 0.0, 0.9, 0.8],
    [0.1, 0.9, 0.8, 0.7, 1.0],
    [0.0, 0.1, 0.5, 0.6, 0.7, 0.75, 0.95, 1.0],
]

for scores in SCORES:
    print(scores)
    print("  mean        ", numpy.mean(scores))
    print("  median      ", numpy.median(scores))
    print("  trimmed mean", trim_mean(scores, 0.25))
    print("  spread      ", numpy.ptp(scores))
