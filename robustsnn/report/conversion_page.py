"""The self-contained HTML page of a suite of conversions."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robustsnn.report import formatting
from robustsnn.report.conversion_report import ABOUT_COSTS
from robustsnn.report.conversion_suite_plots import conversion_suite_figures
from robustsnn.report.conversions import (
    COST_HEADERS,
    Suite,
    conversion_problems,
    costs_of,
    explain,
    figures_at,
    measured_rows,
    rate_headers,
    rates_of,
)
from robustsnn.report.formatting import MISSING, format_eps, shorten
from robustsnn.report.style import inline_svg

_LABELS = {
    "conversions": "Clean, noise, transferred and worst-case accuracy of every network.",
    "over": "Clean accuracy over time steps.",
    "energy": "Clean accuracy against energy per image.",
}


def render_conversion_suite(suite: Suite) -> str:
    """The page as text; the same suite gives the same page.

    Args:
        suite: the contents of ``conversions.json``.
    """
    environment = Environment(
        loader=PackageLoader("robustsnn.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {name: getattr(formatting, name) for name in dir(formatting) if name.startswith("format_")}
    environment.globals |= {"MISSING": MISSING, "shorten": shorten, "rates_of": rates_of, "costs_of": costs_of}
    plots: dict[str, dict[str, Markup]] = {}
    for width, narrow in (("wide", False), ("narrow", True)):
        for name, figure in conversion_suite_figures(suite, narrow):
            label = _LABELS[name.partition("-")[0]]
            plots.setdefault(name, {})[width] = Markup(inline_svg(figure, f"{name}-{width}", label))
    return environment.get_template("conversions.html.j2").render(
        suite=suite,
        rows=measured_rows(suite),
        at=figures_at,
        columns=rate_headers(suite),
        costs=COST_HEADERS,
        explanation=explain(suite),
        about_costs=ABOUT_COSTS,
        problems=conversion_problems(suite),
        plots=plots,
        slugs={eps: format_eps(eps).replace("/", "-") for eps in suite["eps"]},
    )
