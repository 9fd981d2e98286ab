"""Prints the agreement with human labels computed by scipy and scikit-learn: the values in feedback-pipeline/src/inspect/audit/people.rs.

    python3 -m venv /tmp/labels && /tmp/labels/bin/pip install scipy==1.17.1 scikit-learn==1.9.1
    /tmp/labels/bin/python tests/reference/make_label_values.py
"""

import numpy
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

TEACHER = numpy.array([0.9, 0.5, 0.1, 0.4, 0.7, 0.5, 0.0, 1.0, 0.6, 0.3, 0.5, 0.8])
PEOPLE = numpy.array([1.0, 0.4, 0.1, 0.5, 0.7, 0.2, 0.2, 0.9, 0.3, 0.5, 0.5, 0.6])
NEUTRAL = 0.5

distance = numpy.abs(TEACHER - PEOPLE)
print("equal            ", numpy.isclose(distance, 0).mean())
print("within a tenth   ", (distance <= 0.1 + 1e-9).mean())
print("rank correlation ", spearmanr(TEACHER, PEOPLE).statistic)
print("kappa            ", cohen_kappa_score(TEACHER < NEUTRAL, PEOPLE < NEUTRAL))
print("mean distance    ", mean_absolute_error(PEOPLE, TEACHER))
print("mean difference  ", (TEACHER - PEOPLE).mean())
