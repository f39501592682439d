"""Embed real cells with the shipped weights, cluster and name them, and score the result.

700 blood cells that come with scanpy (10x Genomics, 68k PBMC), with the labels their authors gave them. Prints tables
and writes quickstart_umap.png.
"""

import matplotlib as mpl
import pandas as pd
import scanpy as sc

import scfoundry as sf

mpl.use("Agg")

# .X of this data set is scaled, which no count model can read; .raw holds log1p-normalised values.
adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
sc.pp.pca(adata)
sf.tl.embed(adata, model="cellplm")

sc.pp.neighbors(adata, n_neighbors=15, use_rep="X_cellplm")
sc.tl.leiden(adata, key_added="cluster", flavor="igraph", n_iterations=2, directed=False)
sc.tl.umap(adata)

scores = pd.DataFrame(
    {rep: sf.metrics.clustering(adata, use_rep=rep, labels_key="bulk_labels") for rep in ("X_cellplm", "X_pca")}
)
scores = scores.loc[["ari", "nmi", "knn_accuracy"]]
scores.index = ["ARI (best Leiden)", "NMI (best Leiden)", "15-NN label accuracy"]

# The authors' labels, their T cell subsets taken together.
adata.obs["expert label"] = adata.obs["bulk_labels"].map(
    lambda label: {
        "CD14+ Monocyte": "monocyte",
        "CD19+ B": "B cell",
        "CD56+ NK": "NK cell",
        "CD34+": "CD34+ progenitor",
        "Dendritic": "dendritic cell",
    }.get(label, "T cell")
)
sf.tl.zero_shot_annotate(adata, adata.obs["expert label"].unique(), unknown=None)
naming = sf.metrics.annotation(adata.obs["expert label"], adata.obs["zero_shot"])

figure = sc.pl.umap(
    adata, color=["expert label", "zero_shot", "cluster"], wspace=0.5, frameon=False, show=False, return_fig=True
)
figure.savefig("quickstart_umap.png", dpi=150, bbox_inches="tight")

print(f"\n{adata.n_obs} cells, {adata.n_vars} genes, {adata.obs['cluster'].nunique()} clusters\n")
print(scores.round(3).to_string())
print(f"\nNamed from plain words: accuracy {naming['accuracy']:.3f}, macro F1 {naming['macro_f1']:.3f}")
print("\nUMAP written to quickstart_umap.png")
