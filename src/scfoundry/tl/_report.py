"""A page on what was read, done and found."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry._version import __version__
from scfoundry.data.modality import modality_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

    from scfoundry.model import FoundationModel
    from scfoundry.pp import InputCheck
    from scfoundry.tasks.reporting.names import Names
    from scfoundry.tasks.reporting.records import Result

__all__ = ["report"]

CALLER = "sf.tl.report"


@checks_arguments
def report(
    adata: AnnData | MuData,
    path: str | Path,
    *,
    model: str | Path | FoundationModel | None = None,
    layer: str | None = None,
    modality: str = Keys.RNA,
    basis: str | None = None,
    keys: str | Sequence[str] | None = None,
    n_markers: int = 10,
    title: str = "Cells",
) -> Path:
    """Write a page on the data: what was read, what was done, the embedding, names with confidence, unknown cells.

    The page is one file that opens in any browser, in light and dark, on a phone, without network: pictures are in it,
    nothing is loaded and nothing runs. Everything in it comes from ``adata`` as verbs left it; nothing is computed anew
    but how genes match now (`sf.pp.check`), two components where there is no UMAP, and the markers of unknown cells.

    Parameters
    ----------
    adata
        Cells x genes after some verbs of `scfoundry.tl`; in memory, backed, dask, or in a `MuData`. Only read.
    path
        Page to write, ``.html``. A page that is there is replaced when the new one is complete.
    model
        Weights to check genes and values against; those of the first result if `None`, or ``"cellplm"`` where there is
        no result or its weights are not on this machine.
    layer
        Layer to check; the one that the first result was computed from if `None`.
    modality
        Modality of a `MuData`.
    basis
        Key of ``obsm`` to draw. If `None`, ``"X_umap"``, or else the first embedding that a verb wrote; of more than
        two columns the first two principal components are drawn.
    keys
        Results with names to show, such as ``"zero_shot"``; all if `None`.
    n_markers
        Genes to list of unknown cells.
    title
        Heading of the page.

    Returns
    -------
    The path.

    Raises
    ------
    ValueError
        If ``path`` is no ``.html``, a key or the layer does not exist, or ``n_markers`` is no whole number from 1.
        Nothing is written then.
    FileNotFoundError
        If there are no such weights.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.embed(adata)
    >>> sf.tl.zero_shot_annotate(adata, ["B cell", "T cell", "NK", "monocyte", "dendritic cell"])
    >>> sf.tl.report(adata, "report.html", title="68k PBMC")  # doctest: +SKIP
    """
    from scfoundry.tasks.reporting.names import names_of
    from scfoundry.tasks.reporting.page import page
    from scfoundry.tasks.reporting.picture import SIDE, plane_of
    from scfoundry.tasks.reporting.records import results_of

    path = Path(path)
    if path.suffix != ".html" or path.is_dir():
        msg = f"{CALLER} writes a page; {str(path)!r} is to be one. Name it {path.stem}.html."
        raise ValueError(msg)
    cells = modality_of(adata, modality)
    if basis is not None and basis not in cells.obsm:
        msg = f"adata.obsm has no {basis!r}; its keys: {quoted(cells.obsm)}. Pass one of them as basis."
        raise ValueError(msg)
    if layer is not None and layer not in cells.layers:
        msg = f"adata.layers has no {layer!r}; its keys: {quoted(cells.layers)}. Pass one of them, or leave out layer."
        raise ValueError(msg)
    results = results_of(cells)
    named = _chosen(names_of(cells, results), keys)
    if layer is None and results:
        layer = results[0].params.get("layer")
    check = _checked(cells, model, results, layer)

    plane = plane_of(cells, results, basis)
    shown = [_shown(cells, names, n_markers) for names in named]
    content = page(
        title=title,
        date=dt.date.today().isoformat(),
        version=__version__,
        check=check,
        layer=layer,
        known=check.known,
        results=results,
        named=shown,
        plane=plane and plane[1],
        pictures=_pictures(plane, named, cells.n_obs),
        side=SIDE,
        **_credits(results),
    )
    _write(content, path)
    logger.info("%s wrote %s.", CALLER, path)
    return path


def _chosen(named: list[Names], keys: str | Sequence[str] | None) -> list[Names]:
    """Those to show; a ValueError where there is none of a key."""
    if keys is None:
        return named
    wanted = [keys] if isinstance(keys, str) else list(keys)
    by_key = {names.key: names for names in named}
    if missing := [key for key in wanted if key not in by_key]:
        msg = f"adata holds no names {quoted(missing)} with a probability; it has {quoted(by_key)}. Leave out keys."
        raise ValueError(msg)
    return [by_key[key] for key in wanted]


def _checked(cells: AnnData, model: Any, results: list[Result], layer: str | None) -> InputCheck:
    """What a model reads of the data as they are now."""
    from scfoundry.pp import check

    recorded = next((result.origin["weights"] for result in results if "weights" in result.origin), None)
    if model is None and recorded is not None:
        try:
            return check(cells, recorded, layer=layer)
        except FileNotFoundError:
            logger.info(
                "%s: the weights %r are not on this machine; genes are checked against cellplm.", CALLER, recorded
            )
    return check(cells, "cellplm" if model is None else model, layer=layer)


def _shown(cells: AnnData, names: Names, n_markers: int) -> dict[str, Any]:
    """What the page says of names."""
    from scfoundry.tasks.reporting.names import FEWEST_CELLS, markers_of
    from scfoundry.tasks.reporting.picture import colours_of

    colours = colours_of([str(name) for name in names.table.index])
    rows = [
        {
            "name": str(name),
            "named": name != Keys.UNKNOWN,
            "colour": colours[str(name)],
            "width": round(100 * row["probability"]),
        }
        | row.to_dict()
        for name, row in names.table.iterrows()
    ]
    n_unknown = int(names.unknown.sum())
    markers = markers_of(cells, names.unknown, layer=names.layer, n=n_markers) if n_unknown else None
    few = min(n_unknown, cells.n_obs - n_unknown) < FEWEST_CELLS
    return {
        "key": names.key,
        "rows": rows,
        "n_labels": int(sum(row["name"] != Keys.UNKNOWN for row in rows)),
        "n_unknown": n_unknown,
        "unknown_share": n_unknown / max(cells.n_obs, 1),
        "markers": [] if markers is None else [{"gene": gene} | row.to_dict() for gene, row in markers.iterrows()],
        "no_markers": f"there are fewer than {FEWEST_CELLS} cells to compare" if few else "none stands out",
    }


def _pictures(plane: Any, named: list[Names], n_obs: int) -> list[dict[str, Any]]:
    """Cells in the plane, once for all names of each result; once in grey where there are no names."""
    import pandas as pd

    from scfoundry.tasks.reporting.picture import colours_of, draw

    if plane is None or not n_obs:
        return []
    if not named:
        dots = draw(plane[0], pd.Series([Keys.UNKNOWN] * n_obs), colours_of([]))
        return [{"key": "", "image": dots.image, "places": []}]
    pictures = []
    for names in named:
        dots = draw(
            plane[0], names.labels.map(str, na_action="ignore"), colours_of([str(n) for n in names.table.index])
        )
        pictures.append({"key": names.key, "image": dots.image, "places": dots.places})
    return pictures


def _credits(results: list[Result]) -> dict[str, Any]:
    """What to cite, under which licences, and what it ran with."""
    origins = [result.origin for result in results]
    citations = {
        (str(origin["citation"]), str(origin.get("licence", "")), str(origin.get("weights", "")))
        for origin in origins
        if origin.get("citation")
    }
    versions: dict[str, str] = {}
    for origin in origins:
        versions |= origin.get("versions", {})
    return {
        "citations": sorted(citations),
        "versions": ", ".join(f"{package} {version}" for package, version in sorted(versions.items())),
        "checksums": {o["weights"]: o["sha256"] for o in origins if o.get("weights") and o.get("sha256")},
    }


def _write(content: str, path: Path) -> None:
    """The whole page or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{CALLER}: the folder of {path} cannot be made: {error}. Pass a path where you may write."
        raise ValueError(msg) from error
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        part.write_text(content, encoding="utf-8")
        part.replace(path)
