"""`sf.tl.drug_response` as a `DRPModel` of the package drevalpy, for its leaderboard (Bernett et al. 2025).

drevalpy pins versions that do not fit with ours. In an environment of its own that has both:

    python -m benchmarks.drug_response.drevalpy_model DATA_FOLDER

runs it once on the lines here: lines left out, in drevalpy's data structures. `drp_model` gives the class for its own
runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

import scfoundry as sf

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ResponseModel", "drp_model"]

EXPRESSION = "gene_expression"


class ResponseModel:
    """What a `DRPModel` has; drugs are known by their responses, lines by ``gene_expression``."""

    is_single_drug_model = False
    early_stopping = False

    @classmethod
    def get_model_name(cls) -> str:
        """Name in drevalpy's tables."""
        return "scfoundry"

    @classmethod
    def get_hyperparameter_set(cls) -> list[dict[str, Any]]:
        """There are none to choose."""
        return [{"model": "expression"}]

    @property
    def cell_line_views(self) -> list[str]:
        """What is read of lines."""
        return [EXPRESSION]

    @property
    def drug_views(self) -> list[str]:
        """Nothing is read of drugs but what was measured."""
        return []

    def build_model(self, hyperparameters: dict[str, Any]) -> None:
        """Which weights to read beside expression, if any."""
        self.weights = hyperparameters.get("model", "expression")

    def train(self, output: Any, cell_line_input: Any, drug_input: Any = None, *further: Any, **more: Any) -> None:
        """Learn from pairs."""
        table = pd.DataFrame({"line": output.cell_line_ids, "drug": output.drug_ids, "response": output.response})
        response = table.pivot_table(index="line", columns="drug", values="response")
        response = response.loc[:, response.notna().sum() >= 3]
        lines = self._lines(cell_line_input, response.index)
        how = {"model": self.weights, "n_folds": 0, "return_fitted": True}
        self.fitted = sf.tl.drug_response(lines, response=response, **how)
        self.overall = float(np.mean(output.response))

    def predict(
        self, cell_line_ids: NDArray, drug_ids: NDArray, cell_line_input: Any, drug_input: Any = None
    ) -> NDArray[np.float64]:
        """Responses of pairs; the overall mean for drugs without responses."""
        lines = self._lines(cell_line_input, np.unique(cell_line_ids))
        sf.tl.drug_response(lines, model=self.fitted)
        table = lines.obsm["drug_response"]
        rows, columns = table.index.get_indexer(cell_line_ids), table.columns.get_indexer(drug_ids)
        found = table.to_numpy(dtype=float)[rows, columns]
        return np.where(columns >= 0, found, self.overall)

    def load_cell_line_features(self, data_path: str, dataset_name: str) -> Any:
        """Expression as drevalpy keeps it."""
        from drevalpy.datasets.dataset import FeatureDataset

        path = Path(data_path) / dataset_name / "gene_expression.csv"
        return FeatureDataset.from_csv(path, "cell_line_name", EXPRESSION, drop_columns=["cellosaurus_id"])

    def load_drug_features(self, data_path: str, dataset_name: str) -> None:
        """None are read."""

    def _lines(self, features: Any, names: Any) -> AnnData:
        names = [str(name) for name in names]
        values = np.stack([np.asarray(features.features[name][EXPRESSION], dtype=np.float32) for name in names])
        genes = features.meta_info[EXPRESSION]
        return AnnData(values, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=list(map(str, genes))))


def drp_model() -> type:
    """The class that drevalpy's runs take."""
    from drevalpy.models.drp_model import DRPModel

    return type("ScfoundryDRPModel", (ResponseModel, DRPModel), {})


def main(folder: Path) -> None:
    """Run once on lines that are left out, in drevalpy's data structures, and score as it does."""
    from drevalpy.datasets.dataset import DrugResponseDataset, FeatureDataset
    from drevalpy.evaluation import evaluate

    from benchmarks.drug_response.tasks import read, tasks

    lines = read(folder, "GDSC2")
    task = tasks(lines, "cold_cell", 0)
    expression = {name: {EXPRESSION: row} for name, row in zip(lines.obs_names, lines.X, strict=True)}
    features = FeatureDataset(features=expression, meta_info={EXPRESSION: lines.var_names.tolist()})

    def pairs(table: pd.DataFrame) -> Any:
        rows, columns = np.nonzero(table.notna().to_numpy())
        names = table.index.to_numpy().astype(str)[rows], table.columns.to_numpy().astype(str)[columns]
        return DrugResponseDataset(table.to_numpy()[rows, columns], names[0], names[1], dataset_name="GDSC2")

    model = drp_model()()
    model.build_model(model.get_hyperparameter_set()[0])
    known, asked = pairs(task.train), pairs(task.test)
    model.train(known, features)
    asked._predictions = model.predict(asked.cell_line_ids, asked.drug_ids, features)
    print(evaluate(asked, metric=["Pearson", "R^2", "RMSE"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
