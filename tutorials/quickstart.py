"""Embed real cells with the shipped weights, cluster them, and score the result beside PCA.

700 blood cells that come with scanpy (10x Genomics, 68k PBMC), with the labels their authors gave them. Prints a table
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

adata.obs["expert label"] = adata.obs["bulk_labels"]
figure = sc.pl.umap(adata, color=["expert label", "cluster"], wspace=0.6, frameon=False, show=False, return_fig=True)
figure.savefig("quickstart_umap.png", dpi=150, bbox_inches="tight")

print(f"\n{adata.n_obs} cells, {adata.n_vars} genes, {adata.obs['cluster'].nunique()} clusters\n")
print(scores.round(3).to_string())
print("\nUMAP written to quickstart_umap.png")
