"""Can the figures be trusted? Checks of an evaluation from its rows and by probing the model, and their verdict.

``rows`` compares verdicts image by image, ``probes`` attacks a few images in many ways, ``verdict`` sums up, ``assess``
does all three.
"""

from robustsnn.evaluation.checks.assess import assess
from robustsnn.evaluation.checks.check import Check
from robustsnn.evaluation.checks.probes import run_probes
from robustsnn.evaluation.checks.rows import checks_from_rows
from robustsnn.evaluation.checks.verdict import overall, section, summary, weakest

__all__ = ["Check", "assess", "checks_from_rows", "overall", "run_probes", "section", "summary", "weakest"]
