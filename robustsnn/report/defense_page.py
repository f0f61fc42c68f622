"""The self-contained HTML page of a suite of defenses."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robustsnn.report import formatting
from robustsnn.report.defense_plots import suite_figures
from robustsnn.report.defenses import Suite, at, columns, explanation, l1_of, measured, problems, rates
from robustsnn.report.formatting import MISSING, format_eps, shorten
from robustsnn.report.style import inline_svg


def render_suite(suite: Suite) -> str:
    """The page as text; the same suite gives the same page.

    Args:
        suite: the contents of ``defenses.json``.
    """
    environment = Environment(
        loader=PackageLoader("robustsnn.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {name: getattr(formatting, name) for name in dir(formatting) if name.startswith("format_")}
    environment.globals |= {"MISSING": MISSING, "shorten": shorten, "at": at, "rates": rates, "l1_of": l1_of}
    plots: dict[str, dict[str, Markup]] = {}
    for width, narrow in (("wide", False), ("narrow", True)):
        for name, figure in suite_figures(suite, narrow):
            plots.setdefault(name, {})[width] = Markup(inline_svg(figure, f"{name}-{width}", _label(name)))
    return environment.get_template("defenses.html.j2").render(
        suite=suite,
        defenses=measured(suite),
        columns=columns(suite),
        explanation=explanation(suite),
        problems=problems(suite),
        plots=plots,
        slugs={eps: format_eps(eps).replace("/", "-") for eps in suite["eps"]},
    )


def _label(name: str) -> str:
    kind = name.partition("-")[0]
    return {
        "defenses": "Clean, noise and worst-case accuracy of every defense.",
        "tradeoff": "Worst-case accuracy against clean accuracy, a point a defense.",
        "sweep": "Accuracy and gradient norm against the weight of SR.",
    }[kind]
