"""The Markdown tables of the README from the output folder of a benchmark.

python benchmarks/readme_table.py out/digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robustsnn.report.formatting import format_eps, format_interval, format_percent
from robustsnn.report.loading import load_results
from robustsnn.report.selection import budgets


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    results = load_results(parser.parse_args().folder)
    shown = budgets(results)[2:]
    data = results["dataset"]
    threads = results["environment"]["threads"]
    print(f"{data['name']}: {data['n_train']} training images, n = {data['n_evaluated']} test images, "
          f"{results['seconds']:.0f} s on {threads} threads, seed {results['seed']}\n")  # fmt: skip
    print("| model | clean | " + " | ".join(f"{format_eps(eps)}: random / worst case" for eps in shown) + " |")
    print("| --- | --- |" + " --- |" * len(shown))
    for model in results["models"]:
        cells = []
        for eps in shown:
            gap = next(g for g in model["gap"] if abs(g["eps"] - eps) < 1e-9)
            worst = f"{format_percent(gap['adversarial']['value'])} {format_interval(gap['adversarial'])}"
            cells.append(f"{format_percent(gap['random']['value'])} / {worst}")
        clean = f"{format_percent(model['clean']['value'])} {format_interval(model['clean'])}"
        print(f"| {model['title']} | {clean} | " + " | ".join(cells) + " |")
    for conversion in results["conversions"]:
        points = ", ".join(
            f"T={point['time_steps']}: {format_percent(point['accuracy']['value'])}"
            for point in conversion["over_time"]
        )
        print(f"\n{conversion['model']}: ANN {format_percent(conversion['ann']['value'])}; {points}")


if __name__ == "__main__":
    main()
