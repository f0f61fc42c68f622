"""What people look at: terminal tables, plots and one self-contained HTML page, all from a run's ``results.json``.

``loading`` reads a run's folder, ``tables`` prints it, ``plots`` draws it, ``html`` writes the page. Nothing here
computes a result: figures and their intervals come from ``robustsnn.evaluation``.
"""
