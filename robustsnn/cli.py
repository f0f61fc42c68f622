"""The command line: a thin face that parses, calls and prints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from robustsnn import runtime
from robustsnn.errors import RobustSNNError

runtime.prepare_process()

app = typer.Typer(
    name="robustsnn",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Measure and improve the adversarial robustness of spiking neural networks.

    Start with `robustsnn benchmark`: it trains a plain, a defended and a converted SNN on real hand-written digits, attacks
    all of them and writes a report page. `robustsnn list` shows what there is.""",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Command = TypeVar("Command", bound=Callable[..., None])

RootOption = Annotated[
    str | None, typer.Option("--data-root", help="Folder of the data set (torchvision's layout), or the .npz file.")
]
DownloadOption = Annotated[bool, typer.Option("--download", help="Fetch missing files through torchvision.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of training, noise and attacks.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
OutOption = Annotated[Path, typer.Option("--out", help="Output folder; an interrupted run goes on where it stopped.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Delete the earlier run that is there and start again.")]
TestOption = Annotated[int | None, typer.Option("--n-test", min=1, help="Use the first N test images only.")]


def _readable_errors(command: Command) -> Command:
    """Print an error of ours as one line and leave with status 2; an interrupt says how to go on."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            runtime.tune_allocator()
            command(*args, **kwargs)
        except RobustSNNError as error:
            typer.secho(f"robustsnn: {' '.join(str(error).splitlines())}", fg="red", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.secho("\nrobustsnn: interrupted; run the same command again to go on", fg="yellow", err=True)
            raise typer.Exit(130) from None

    return run  # type: ignore[return-value]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        import robustsnn

        typer.echo(f"robustsnn {robustsnn.__version__}")
        raise typer.Exit


@app.command()
@_readable_errors
def benchmark(
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Data set, digits unless given; `robustsnn list datasets`.")
    ] = None,
    data_root: RootOption = None,
    download: DownloadOption = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file with the whole configuration; other options change its entries."),
    ] = None,
    out: OutOption = Path("out/benchmark"),
    n_test: TestOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Train for so many epochs.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of training, noise and attacks; 0 unless given.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; cpu unless given.")] = None,
    fresh: FreshOption = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the configuration as YAML, to edit and give to --config.")
    ] = False,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="Run a whole suite in place of the main job: defenses, a table of every defense; conversions, ANNs beside "
            "what they convert to.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Of a suite: trainings of each row, 3 unless given.")
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            "--defense",
            "--conversion",
            help="Of a suite: run this row (and the reference) only, repeatable; all unless given.",
        ),
    ] = None,
    lam: Annotated[
        list[float] | None, typer.Option("--lam", help="Of a suite: weight of SR in its sweep, repeatable.")
    ] = None,
    eps: Annotated[
        list[str] | None, typer.Option("--eps", help="Radius of the attacks, such as 8/255 or 0.03, repeatable.")
    ] = None,
) -> None:
    """Run the main job: train, convert, attack, and report the gap between random and adversarial perturbation.

    Without options: a plain SNN, an SR-trained SNN and a QCFS-converted SNN on the embedded digits, under noise, FGSM, PGD
    and APGD-CE, each differentiated by BPTT and by BPTR. The output folder receives `report.html`, `results.json`,
    `samples.parquet`, the plots and the trained models.

    Examples:

    - `robustsnn benchmark --out out/digits`

    - `robustsnn benchmark --dataset mnist --data-root ~/data --download`

    - `robustsnn benchmark --dataset npz --data-root mine.npz --out out/mine`

    - `robustsnn benchmark --show-config > mine.yaml`, edit, `robustsnn benchmark --config mine.yaml`

    - `robustsnn benchmark --suite defenses --dataset digits --seeds 3 --out out/defenses`

    - `robustsnn benchmark --suite conversions --out out/conversions`
    """
    from robustsnn.evaluation import main_job, read_config
    from robustsnn.evaluation.config import parse_eps
    from robustsnn.evaluation.overrides import suite_with, with_data, with_epochs, with_eps, with_seed

    if suite is not None:
        chosen = suite_with(
            suite,
            config,
            data={"name": dataset, "root": data_root, "download": download or None, "n_test": n_test},
            seeds=seeds,
            first_seed=seed,
            rows=row or (),
            lams=lam or (),
            eps=eps,
            epochs=epochs,
            device=device,
        )
        if show_config:
            typer.echo(_yaml(chosen.model_dump(mode="json")))
            return
        _run_suite(chosen, out, fresh)
        return
    for option, given in (("--seeds", seeds), ("--defense", row), ("--lam", lam)):
        if given is not None:
            raise RobustSNNError(f"{option} belongs to a suite; add --suite defenses or --suite conversions")
    settings = main_job(dataset or "digits") if config is None else read_config(config)
    settings = with_data(settings, name=dataset, root=data_root, download=download or None, n_test=n_test)
    if epochs is not None:
        settings = with_epochs(settings, epochs)
    if seed is not None:
        settings = with_seed(settings, seed)
    if eps:
        settings = with_eps(settings, [parse_eps(text) for text in eps])
    if device is not None:
        settings = settings.model_copy(update={"device": device})
    if show_config:
        typer.echo(_yaml(settings.model_dump(mode="json")))
        return
    _run_and_report(settings, out, fresh)


@app.command()
@_readable_errors
def evaluate(
    model: Annotated[
        list[str],
        typer.Argument(
            help="Models, compared with each other: trained ones (.safetensors), or FILE.py:FUNCTION that returns a "
            "SpikingClassifier around anybody's network (the file is run)."
        ),
    ],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Data set; that of training, or digits, unless given.")
    ] = None,
    data_root: RootOption = None,
    download: DownloadOption = False,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            help="Attack, repeatable: ensemble-standard, sa-pgd, square, torchattacks:PGD, ...; the main job's unless given.",
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            "--rule", help="Gradient rule, repeatable; bptt and bptr (own for foreign networks) unless given."
        ),
    ] = None,
    eps: Annotated[list[str] | None, typer.Option("--eps", help="Radius such as 8/255 or 0.03, repeatable.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of the iterative attacks.")] = None,
    norm: Annotated[str, typer.Option("--norm", help="Linf, L2, L1 or L0.")] = "Linf",
    n_test: TestOption = None,
    time_steps: Annotated[int | None, typer.Option("--time-steps", help="T of a converted ANN.")] = None,
    out: OutOption = Path("out/evaluation"),
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    fresh: FreshOption = False,
    record: Annotated[
        bool, typer.Option("--record", help="Note the results in the models' files, where `robustsnn show` finds them.")
    ] = False,
) -> None:
    """Attack trained models, or anybody's, check the evaluation itself, and report.

    Examples:

    - `robustsnn evaluate out/benchmark/models/plain.safetensors --attack ensemble-standard --eps 16/255 --out out/strong`

    - `robustsnn evaluate mine.py:build --attack pgd --attack square --rule own --out out/mine`
    """
    from robustsnn.evaluation.overrides import evaluation_of
    from robustsnn.evaluation.record import files_to_note_in, note_evaluation

    settings = evaluation_of(
        model,
        dataset=dataset,
        root=data_root,
        download=download,
        attacks=attack,
        rules=rule,
        eps=eps,
        steps=steps,
        norm=norm,
        n_test=n_test,
        time_steps=time_steps,
        seed=seed,
        device=device,
    )
    if record:
        files_to_note_in(settings)
    results = _run_and_report(settings, out, fresh)
    if record:
        for file in note_evaluation(settings, results):
            typer.echo(f"Recorded in {file}")


@app.command()
@_readable_errors
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Recipe: a name (`robustsnn list recipes`) or a YAML file; the options change its entries."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File of the trained model; RECIPE.safetensors unless given.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Data set; the recipe's, or digits, unless given.")
    ] = None,
    data_root: RootOption = None,
    download: DownloadOption = False,
    n_train: Annotated[
        int | None, typer.Option("--n-train", min=1, help="Use the first N training images only.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Architecture, cnn unless given; `robustsnn list models`.")
    ] = None,
    neuron: Annotated[
        str | None, typer.Option("--neuron", help="if, lif, plif, ...; relu or qcfs for an ANN; if unless given.")
    ] = None,
    time_steps: Annotated[
        int | None, typer.Option("--time-steps", help="Number of simulation steps T, 8 unless given.")
    ] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", help="direct, poisson, ...; direct unless given.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            help="A name (`robustsnn list defenses`) or a sum such as 'sr(lam=0.002) + at(eps=8/255)'; ce unless given.",
        ),
    ] = None,
    lam: Annotated[
        float | None, typer.Option("--lam", help="Weight of the regulariser of an objective by name.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="The recipe's unless given.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="KEY=VALUE for any other entry of the recipe, such as training.ema=0.999, repeatable."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of weights and training; 0 unless given.")
    ] = None,
    device: DeviceOption = "cpu",
    fresh: FreshOption = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write scalars for TensorBoard beside the file, too.")
    ] = False,
    show_recipe: Annotated[
        bool, typer.Option("--show-recipe", help="Print the recipe as YAML, to edit and give as RECIPE.")
    ] = False,
) -> None:
    """Train one model; run the same command again after an interruption and it goes on, to the same weights.

    The best epoch is chosen on a held-out part of the training images. Progress is logged beside the file.

    Examples:

    - `robustsnn train sr-digits`

    - `robustsnn train sr-cifar10-vgg11 --data-root ~/data --device cuda --out sr.safetensors`

    - `robustsnn train --dataset mnist --data-root ~/data --objective "sr(lam=0.01) + at(eps=16/255, steps=5)"`
    """
    from rich.markup import escape

    from robustsnn.defenses.processes import is_main_process
    from robustsnn.evaluation import Progress
    from robustsnn.evaluation.recipes import recipe_of
    from robustsnn.evaluation.single import train_one
    from robustsnn.terminal import Bars, console

    chosen = recipe_of(
        recipe,
        data={"name": dataset, "root": data_root, "download": download or None, "n_train": n_train},
        architecture=model,
        neuron=neuron,
        time_steps=time_steps,
        encoder=encoder,
        objective=objective,
        lam=lam,
        training={"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed},
        changes=change or (),
    )
    if show_recipe:
        typer.echo(_yaml(chosen.model_dump(mode="json")))
        return
    file = out or Path(f"{Path(recipe).stem if recipe else 'model'}.safetensors")
    with Bars() if is_main_process() else nullcontext(Progress()) as progress:
        record = train_one(chosen, file, device, progress, fresh, tensorboard)
    if record is None:
        return
    console.print(
        f"[bold]{escape(str(file))}[/bold]: test accuracy {_rate(record['test_accuracy'])}, "
        f"best epoch {record['selected_epoch']} of {record['epochs']}, {record['seconds']:.0f} s of training",
        soft_wrap=True,
    )


@app.command()
@_readable_errors
def show(
    model: Annotated[Path, typer.Argument(help="A trained model, .safetensors.")],
) -> None:
    """Say what the file of a trained model is: network, recipe, data, versions, and the robustness measured so far.

    Example: `robustsnn show sr-digits.safetensors`
    """
    from robustsnn.report.card import print_card
    from robustsnn.terminal import console

    print_card(model, console)


@app.command()
@_readable_errors
def convert(
    model: Annotated[
        str,
        typer.Argument(
            help="A trained ANN (`robustsnn train --neuron qcfs`, or relu), or FILE.py:FUNCTION that returns anybody's: a "
            "torch.nn.Module or an AnnClassifier (the file is run)."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File of the converted SNN, converted.safetensors unless given; none for a network of your own.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="`robustsnn list conversions`, or all: every method that fits, in one table. qcfs for QCFS activations, opi "
            "for ReLU unless given.",
        ),
    ] = None,
    correction: Annotated[
        str | None, typer.Option("--correction", help="srp or cos: neurons corrected by what they do in probing steps.")
    ] = None,
    probe_steps: Annotated[
        int | None,
        typer.Option("--probe-steps", help="Steps of the correction before those that count, 4 unless given."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            help="KEY=VALUE, repeatable: an option of the method, such as percentile=99; of the correction as "
            "cos.iterations=2.",
        ),
    ] = None,
    time_steps: Annotated[int, typer.Option("--time-steps", help="T of the converted model.")] = 8,
    v_init: Annotated[
        float | None,
        typer.Option("--v-init", help="Initial potential in thresholds; the method's own (mostly 0.5) unless given."),
    ] = None,
    n_calibration: Annotated[
        int | None,
        typer.Option("--n-calibration", min=1, help="First N training images that calibrate, 1000 unless given."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Data set; that of training, or digits, unless given.")
    ] = None,
    data_root: RootOption = None,
    n_test: TestOption = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Folder of the tables and plots; named as --out unless given, out/conversion without --out.",
        ),
    ] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Convert an ANN to an SNN and show accuracy over T, latency and energy beside the ANN's.

    Examples:

    - `robustsnn train --neuron qcfs --out ann.safetensors`, then `robustsnn convert ann.safetensors --correction cos`

    - `robustsnn convert relu.safetensors --method percentile --option percentile=99 --time-steps 32`

    - `robustsnn convert mine.py:build --dataset cifar10 --data-root ~/data --method all --time-steps 32`
    """
    from rich.markup import escape

    from robustsnn.evaluation.conversion_study import ALL, conversions_of, run_conversions, source_of
    from robustsnn.evaluation.overrides import conversion_keys
    from robustsnn.evaluation.single import check_file
    from robustsnn.files import writable_folder
    from robustsnn.report.conversion_report import save_study
    from robustsnn.terminal import Bars, console

    source = source_of(model, device)
    keys = conversion_keys(option or (), correction, probe_steps, v_init=v_init, n_calibration=n_calibration)
    conversions = conversions_of(source, method, **keys)
    if out is None and source.spec is not None and method != ALL:
        out = Path("converted.safetensors")
    if out is not None:
        check_file(out)
    folder = report or (Path("out/conversion") if out is None else out.with_suffix(".conversion"))
    with Bars() as progress:
        found = run_conversions(source, conversions, time_steps, out, dataset, data_root, n_test, device, progress)
    save_study(writable_folder(folder), found)
    _report_study(folder)
    if out is not None:
        name = escape(str(out))
        told = f"[bold]{name}[/bold]: an SNN of {time_steps} steps; attack it with `robustsnn evaluate {name}`"
        console.print(told, soft_wrap=True)
    elif source.spec is None:
        console.print("No file of the SNN: a network of your own has no description that could build it again.")


@app.command()
@_readable_errors
def report(
    folder: Annotated[Path, typer.Argument(help="Output folder of a benchmark, a suite or an evaluation.")],
) -> None:
    """Write report.html and the plots of a run again, finished or not, and print its table.

    Example: `robustsnn report out/digits`
    """
    _report(folder)


@app.command("list")
@_readable_errors
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="datasets, models, rules, attacks, libraries, defenses, recipes, suites, conversions, corrections or "
            "surrogates; all unless given."
        ),
    ] = None,
) -> None:
    """Show the data sets, models, gradient rules, attacks, libraries, defenses, recipes, suites and so on.

    Example: `robustsnn list attacks`
    """
    from robustsnn.catalogue import catalogue
    from robustsnn.terminal import console, print_catalogue

    print_catalogue(catalogue(kind), console)


def _run_and_report(settings: Any, out: Path, fresh: bool) -> dict[str, Any]:
    from robustsnn.evaluation import run_benchmark
    from robustsnn.terminal import Bars

    with Bars() as progress:
        results = run_benchmark(settings, out, progress, fresh)
    _report(out)
    return results


def _run_suite(settings: Any, out: Path, fresh: bool) -> None:
    from robustsnn.evaluation.conversion_suite import run_conversion_suite
    from robustsnn.evaluation.conversion_suite_config import ConversionSuite
    from robustsnn.evaluation.defense_suite import run_suite
    from robustsnn.terminal import Bars

    run = run_conversion_suite if isinstance(settings, ConversionSuite) else run_suite
    with Bars() as progress:
        run(settings, out, progress, fresh)
    _report(out)


def _report(folder: Path) -> None:
    from rich.markup import escape

    from robustsnn.report.conversion_report import is_study
    from robustsnn.report.conversions import (
        is_conversion_suite,
        load_conversion_suite,
        print_conversion_suite,
        write_conversion_suite,
    )
    from robustsnn.report.defenses import is_suite, load_suite, print_suite, write_suite
    from robustsnn.report.html import write_report
    from robustsnn.report.loading import load_examples, load_results
    from robustsnn.report.plots import save_plots
    from robustsnn.report.tables import print_summary
    from robustsnn.terminal import console

    if is_study(folder):
        _report_study(folder)
        return
    if is_conversion_suite(folder):
        print_conversion_suite(load_conversion_suite(folder), console)
        console.print(f"Report: [bold]{escape(str(write_conversion_suite(folder)))}[/bold]", soft_wrap=True)
        return
    if is_suite(folder):
        print_suite(load_suite(folder), console)
        console.print(f"Report: [bold]{escape(str(write_suite(folder)))}[/bold]", soft_wrap=True)
        return
    results = load_results(folder)
    print_summary(results, console)
    save_plots(results, folder / "plots", load_examples(folder))
    page = write_report(folder)
    console.print(f"Report: [bold]{escape(str(page))}[/bold]", soft_wrap=True)


def _report_study(folder: Path) -> None:
    from rich.markup import escape

    from robustsnn.report.conversion_report import load_study, print_study, write_study
    from robustsnn.terminal import console

    print_study(load_study(folder), console)
    console.print(f"Tables and plots: [bold]{escape(str(write_study(folder)))}[/bold]", soft_wrap=True)


def _yaml(content: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(content, sort_keys=False).rstrip()


def _rate(rate: dict[str, Any]) -> str:
    return f"{100 * rate['value']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}], n = {rate['n']}"


def main() -> None:
    """Entry point of the ``robustsnn`` command."""
    app()


if __name__ == "__main__":
    main()
