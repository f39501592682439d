import matplotlib as mpl
import pytest

import scfoundry as sf

mpl.use("Agg")


def test_bars_add_up_to_the_genes_of_the_data(make_adata):
    adata = make_adata()
    model = sf.model.CellPLM(genes=adata.var_names[:30], n_hidden=16, n_latent=4)
    sf.tl.embed(adata, model, device="cpu")
    ax = sf.pl.gene_matching(adata)
    widths = {label.get_text(): bar.get_width() for label, bar in zip(ax.get_yticklabels(), ax.patches, strict=True)}
    assert widths == {"ensembl": 30, "not found": 10}
    assert "30 of 40" in ax.get_title()


def test_without_a_result_it_says_what_to_run(make_adata):
    with pytest.raises(ValueError, match=r"Run it first: sf.tl.embed"):
        sf.pl.gene_matching(make_adata())
