"""The verbs for the shell: files in, files out.

Options are the arguments of the functions, with their names and defaults.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scfoundry._files import check_target, read, write
from scfoundry._settings import settings
from scfoundry._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Input = Annotated[Path, typer.Argument(help="Cells: .h5ad, .h5mu, .zarr, a 10x .h5 file or a 10x folder.")]
Output = Annotated[Path, typer.Argument(help="What is written, .h5ad, .h5mu or .zarr; never the input.")]
# What only makes sense for objects in memory.
IN_MEMORY = ("copy", "return_fitted")
# The first pattern found in the types of an argument decides; what is an object in memory is left out.
KINDS: list[tuple[str, Any]] = [
    (r"AnnData|Mapping|Callable|Markers|Parents", None),
    (r"Sequence|Texts", list[str]),
    (r"^bool|HardMining", bool),
    (r"\bint\b", int),
    (r"^float", float),
]
# Verb -> name of its command and how it is called.
VERBS = {
    "embed": ("embed", "cells.h5ad embedded.h5ad --model cellplm"),
    "integrate": ("integrate", "cells.h5ad integrated.h5ad --batch-key donor"),
    "annotate": ("annotate", "cells.h5ad named.h5ad --reference atlas.h5ad --labels-key cell_type"),
    "zero_shot_annotate": ("zero-shot", 'cells.h5ad named.h5ad --texts "B cell" --texts monocyte'),
    "impute_spatial": ("impute", "spots.h5ad cells.h5ad imputed.h5ad --genes CD3E --genes MS4A1"),
    "denoise": ("denoise", "cells.h5ad denoised.h5ad --layer counts"),
    "predict_perturbation": (
        "perturb",
        "screen.h5ad predicted.h5ad --perturbation-key guide --control ctrl --perturbations KLF1+CEBPA",
    ),
}
# Those that train a model unless told not to.
SLOW = ("integrate", "denoise")


def say_version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        typer.echo(f"scfoundry {__version__}")
        raise typer.Exit


@app.callback()
def main(
    verbosity: Annotated[str, typer.Option(help="error, warning, info or debug.")] = "info",
    version: Annotated[bool, typer.Option("--version", callback=say_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Single-cell foundation models: embed, name, impute and denoise cells from files."""
    settings.verbosity = verbosity  # type: ignore[assignment]


@app.command()
def check(
    source: Input,
    model: Annotated[str, typer.Option(help="A model's name, a name that `scfoundry models` lists, or a folder.")] = (
        "cellplm"
    ),
    layer: Annotated[str | None, typer.Option(help="Layer with the values, X by default.")] = None,
    modality: Annotated[str, typer.Option(help="Modality of a .h5mu file.")] = "rna",
) -> None:
    """Say what a model would read of a file; exit code 1 where it would be refused.

    Example: scfoundry check cells.h5ad --model cellnamer
    """
    import scfoundry as sf

    found = sf.pp.check(read(source), model, layer=layer, modality=modality)
    typer.echo(found)
    raise typer.Exit(0 if found.ok else 1)


@app.command()
def benchmark(
    source: Input,
    target: Annotated[Path, typer.Argument(help="Table of scores, .csv; a .png of the same name shows them.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with cell types.")],
    models: Annotated[list[str], typer.Option(help="A model's name or folder; repeat it for several.")] = ["cellplm"],  # noqa: B006
    batch_key: Annotated[str | None, typer.Option(help="Column of obs with batches.")] = None,
    baselines: Annotated[list[str], typer.Option(help="pca, harmony, scvi or random; repeat it.")] = ["pca"],  # noqa: B006
    layer: Annotated[str | None, typer.Option(help="Layer with the values, X by default.")] = None,
    rng: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Score embeddings of several models on labelled cells, with scib-metrics.

    Example: scfoundry benchmark cells.h5ad scores.csv --label-key cell_type --batch-key donor --models cellplm
    """
    import scfoundry as sf

    if target.suffix != ".csv":
        msg = f"{target} is to be a table. Name it {target.stem}.csv."
        raise ValueError(msg)
    how: dict[str, Any] = {"label_key": label_key, "batch_key": batch_key, "baselines": baselines}
    scores = sf.tl.benchmark(read(source), models, **how, layer=layer, rng=rng)
    scores.to_csv(target)
    axes: Any = sf.pl.benchmark(scores)
    axes.figure.savefig(target.with_suffix(".png"), dpi=150, bbox_inches="tight")
    typer.echo(scores.round(3).to_string())


@app.command()
def report(
    source: Input,
    target: Annotated[Path, typer.Argument(help="Page to write, .html.")],
    model: Annotated[
        str | None, typer.Option(help="Weights to check against, those of the first result by default.")
    ] = (None),
    layer: Annotated[str | None, typer.Option(help="Layer to check, that of the first result by default.")] = None,
    modality: Annotated[str, typer.Option(help="Modality of a .h5mu file.")] = "rna",
    basis: Annotated[str | None, typer.Option(help="Key of obsm to draw, the UMAP by default.")] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page, the name of the file by default.")] = None,
) -> None:
    """Write a page on what was read, done and found: embedding, names with confidence, unknown cells.

    Example: scfoundry report named.h5ad report.html --title "Breast tumour"
    """
    import scfoundry as sf

    how: dict[str, Any] = {"model": model, "layer": layer, "modality": modality, "basis": basis}
    sf.tl.report(read(source), target, title=title or source.stem, **how)
    typer.echo(f"wrote {target}", err=True)


@app.command()
def models() -> None:
    """List all weights: their model, size, licence, and whether they are on this machine."""
    import scfoundry as sf

    shown = sf.model.list_pretrained()[["model", "parameters", "megabytes", "licence", "available", "source"]]
    typer.echo(shown.to_string())


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Official files in a folder, or a name that `models` lists.")],
    folder: Annotated[Path, typer.Argument(help="New folder: config.json, model.safetensors, genes.tsv, README.md.")],
) -> None:
    """Write weights of any source as a folder that loads by itself.

    Example: scfoundry convert downloads/scGPT_human my_scgpt
    """
    import scfoundry as sf

    if folder.exists():
        msg = f"{folder} exists. Name a new folder."
        raise FileExistsError(msg)
    sf.model.load_pretrained(source).save_pretrained(folder)
    typer.echo(f"wrote {folder}")


def command_of(verb: str, name: str, example: str) -> Callable[..., None]:
    """Command that reads files, calls a verb of `scfoundry.tl` with the options given, and writes a file."""
    import scfoundry as sf

    function = getattr(sf.tl, verb)
    arguments = inspect.signature(function).parameters
    data = [argument for argument in arguments.values() if "AnnData" in str(argument.annotation)]
    files = list(files_of(data))

    def run(target: Path, **given: Any) -> None:
        sources = {argument.name: given.pop(argument.name) for argument in data}
        inputs = [path for path in sources.values() if path is not None]
        check_target(target, inputs)
        if given.get("fine_tune", verb in SLOW):
            typer.echo(f"{name} trains a model here: minutes on a CPU, more for many cells.", err=True)
        options = {key: value_of(value, str(arguments[key].annotation)) for key, value in given.items()}
        cells = {argument: None if path is None else read(path) for argument, path in sources.items()}
        function(**cells, **{key: value for key, value in options.items() if value != []})
        write(cells[data[0].name], target, inputs)
        typer.echo(f"wrote {target}", err=True)

    signature = inspect.Signature([*files, *options_of(function)])
    run.__signature__ = signature  # type: ignore[attr-defined]
    summary = (inspect.getdoc(function) or "").partition("\n\n")[0]
    run.__doc__ = (
        f"{plain(summary)}\n\nExample: scfoundry {name} {example}\n\nMore: {verb} of https://scfoundry.readthedocs.io"
    )
    return run


def files_of(data: Sequence[inspect.Parameter]) -> Iterator[inspect.Parameter]:
    """Paths in place of the data of a function, then the one that is written; optional data are options."""
    kind = inspect.Parameter.KEYWORD_ONLY
    for argument in data:
        if argument.default is inspect.Parameter.empty:
            yield inspect.Parameter(argument.name, kind, annotation=Input)
    yield inspect.Parameter("target", kind, annotation=Output)
    for argument in data:
        if argument.default is not inspect.Parameter.empty:
            option = typer.Option(help="Labelled cells to learn from, a file of any of these kinds.")
            yield inspect.Parameter(argument.name, kind, default=None, annotation=Annotated[Path | None, option])


def options_of(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """Options for the arguments of a function that a shell can pass; lists are repeated options."""
    described = descriptions(inspect.getdoc(function) or "")
    for argument in inspect.signature(function).parameters.values():
        kind = kind_of(str(argument.annotation))
        if kind is None or argument.name in IN_MEMORY:
            continue
        required = argument.default is inspect.Parameter.empty
        option = typer.Option(help=described.get(argument.name, ""))
        types = kind if required or kind is bool else kind | None
        annotation = Annotated[types, option]  # type: ignore[valid-type]
        default = inspect.Parameter.empty if required else argument.default
        yield inspect.Parameter(argument.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def kind_of(types: str) -> Any:
    """Type of an option, by the types that an argument takes; `None` if a shell cannot pass it."""
    return next((kind for pattern, kind in KINDS if re.search(pattern, types)), str)


def value_of(value: Any, types: str) -> Any:
    """What an option stands for: lines of a text file, nothing by the word "none", a number where one may be."""
    if isinstance(value, list) and len(value) == 1 and value[0].endswith(".txt") and Path(value[0]).is_file():
        return [line.strip() for line in Path(value[0]).read_text().splitlines() if line.strip()]
    if value == "none":
        return None
    if isinstance(value, str) and "float" in types and re.fullmatch(r"[-+.\de]+", value):
        return float(value)
    return value


def descriptions(doc: str) -> dict[str, str]:
    """First sentence of every argument in a numpydoc docstring."""
    section = doc.partition("Parameters\n----------\n")[2].partition("\n\nReturns\n")[0]
    found: dict[str, str] = {}
    for names, text in re.findall(r"^(\S.*)\n((?:    .*\n?|\n)+)", section + "\n", flags=re.MULTILINE):
        sentence = plain(" ".join(text.split())).partition(". ")[0].rstrip(".") + "."
        found |= dict.fromkeys(re.split(r",\s*", names), sentence)
    return found


def plain(text: str) -> str:
    """Text without the marks of reStructuredText."""
    text = re.sub(r":[a-z:]+:`([^`]+)`", r"[\1]", text)
    return re.sub(r"`+([^`]*)`+", r"\1", text).replace("~", "")


for _verb, (_name, _example) in VERBS.items():
    app.command(_name)(command_of(_verb, _name, _example))


def run() -> None:
    """Entry point: what is wrong with data or files is one message and exit code 1; wrong usage is 2, Ctrl-C 130."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was written", err=True)
        sys.exit(130)
