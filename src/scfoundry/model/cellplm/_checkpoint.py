"""Official CellPLM files, `<version>.best.ckpt` and `<version>.config.json`, mapped both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfoundry._arguments import fits
from scfoundry.data.genes import GeneVocabulary
from scfoundry.model.cellplm._config import CellPLMConfig
from scfoundry.nn.checkpoint import CheckpointError, account_for, read_json, read_torch_file, tensors_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from scfoundry.model.cellplm._module import CellPLMModule

__all__ = ["from_released", "read_release", "to_released"]

CONFIG_SUFFIX = ".config.json"
WEIGHTS_SUFFIX = ".best.ckpt"

# Our name -> released name; {} is the number of a layer.
COMMON = {
    "embedder.genes": "embedder.feat_enc.emb",
    "embedder.position.placeholder": "embedder.pe_enc.missing_pe",
    "embedder.linear": "embedder.extra_linear.0",
    "embedder.norm": "embedder.extra_linear.3",
    "layers.{}.attention.query": "encoder.layers.{}.self_attn.query_projection",
    "layers.{}.attention.key": "encoder.layers.{}.self_attn.key_projection",
    "layers.{}.attention.value": "encoder.layers.{}.self_attn.value_projection",
    "layers.{}.attention.out": "encoder.layers.{}.self_attn.out_projection",
    "layers.{}.expand": "encoder.layers.{}._ff_block.0",
    "layers.{}.contract": "encoder.layers.{}._ff_block.3",
    "layers.{}.norm1": "encoder.layers.{}.norm1",
    "layers.{}.norm2": "encoder.layers.{}.norm2",
    "norm": "pre_latent_norm.norm",
    "decoder.blocks.{}.linear": "decoder.layers.{}.0",
    "decoder.blocks.{}.slope": "decoder.layers.{}.1",
    "decoder.blocks.{}.norm": "decoder.layers.{}.3",
    "decoder.labels.{}.batch.table": "decoder.covariate_layers.{}.batch.0",
    "decoder.labels.{}.batch.slope": "decoder.covariate_layers.{}.batch.1",
    "decoder.labels.{}.batch.norm": "decoder.covariate_layers.{}.batch.2",
    "decoder.labels.{}.dataset.table": "decoder.covariate_layers.{}.dataset.0",
    "decoder.labels.{}.dataset.slope": "decoder.covariate_layers.{}.dataset.1",
    "decoder.labels.{}.dataset.norm": "decoder.covariate_layers.{}.dataset.2",
    "decoder.bottleneck": "decoder.out_layer.dec_1",
    "decoder.mean": "decoder.out_layer.dec_mean.0",
    "decoder.log_dispersion": "decoder.out_layer.dec_disp",
}
LATENT = {
    "gmvae": {
        "latent.logits": "latent.layers.1.inference.inference_qyx.0.logits",
        "latent.hidden": "latent.layers.1.inference.inference_qzyx.0",
        "latent.mean": "latent.layers.1.inference.inference_qzyx.2.mu",
        "latent.variance": "latent.layers.1.inference.inference_qzyx.2.var",
        "latent.prior_mean": "latent.layers.1.inference.y_mu",
        "latent.prior_variance": "latent.layers.1.inference.y_var",
    },
    "vae": {"latent.mean": "latent.layers.1.hid_2mu", "latent.log_variance": "latent.layers.1.hid_2sigma"},
    "ae": {"latent.linear": "latent.layers.1.lat_2lat.0"},
}

# In the official file, but part of no computation: a norm that is never called, and the table of position codes,
# which are a fixed function of the bin (see _positions.py).
UNUSED = ("embedder.norm0.weight", "embedder.norm0.bias", "embedder.pe_enc.pe_enc.weight")

# Released config key -> ours.
CONFIG = {
    "enc_hid": "n_hidden",
    "enc_layers": "n_layers",
    "latent_mod": "latent",
    "post_latent_dim": "n_latent",
    "num_clusters": "n_clusters",
    "dec_hid": "n_decoder_hidden",
    "dec_layers": "n_decoder_layers",
    "batch_num": "n_batches",
    "dataset_num": "n_datasets",
    "model_dropout": "dropout",
    "mask_node_rate": "mask_cells",
    "mask_feature_rate": "mask_genes",
    "mask_beta": "mask_beta",
    "drop_node_rate": "drop_cells",
    "max_batch_size": "max_cells",
    "dae": "masked_term",
    "lamda": "latent_floor",
    "w_li": "prior_weight",
    "w_en": "categorical_weight",
}

# Structure that no official weights use; another value means another model.
FIXED = {
    "enc_mod": "flowformer",
    "dec_mod": "nbmlp",
    "norm": "groupnorm",
    "cat_pe": False,
    "input_covariate": False,
    "dar": False,
    "ecs": False,
    "dsbn": False,
}


def released_name(name: str, latent: str) -> str:
    """Released name of one of our parameters."""
    number = next((part for part in name.split(".") if part.isdigit()), None)
    stem, _, suffix = name.rpartition(".")
    if suffix not in {"weight", "bias"}:
        stem, suffix = name, ""
    template = stem if number is None else stem.replace(f".{number}", ".{}", 1)
    target = (COMMON | LATENT[latent])[template].format(number)
    return f"{target}.{suffix}" if suffix else target


def to_released(module: CellPLMModule) -> dict[str, Tensor]:
    """A module's parameters under their released names, without the tensors that no computation uses."""
    return {released_name(name, module.config.latent): tensor for name, tensor in module.state_dict().items()}


def from_released(state: dict[str, Tensor], module: CellPLMModule, *, source: str) -> dict[str, Tensor]:
    """A module's complete state from released tensors; see `account_for` for what is refused."""
    ours = {released_name(name, module.config.latent): name for name in module.state_dict()}
    return account_for({ours.get(name, name): t for name, t in state.items()}, module, source=source, unused=UNUSED)


def config_from_released(released: dict[str, Any]) -> CellPLMConfig:
    """Translate an official config; the choices reproduce the released computation.

    CheckpointError: if the config asks for a structure that CellPLM's official weights do not have.
    """
    other = [f"{key}={released[key]!r}" for key, value in FIXED.items() if released.get(key, value) != value]
    if other:
        msg = f"This CellPLM config has {', '.join(other)}; the released models have {FIXED}. Is it of another model?"
        raise CheckpointError(msg)
    values = {ours: released[key] for key, ours in CONFIG.items() if key in released}
    # 8 heads and the 128-wide bottleneck are constants of the released code and stand in no config.
    return CellPLMConfig(**values, n_heads=8, n_bottleneck=128, positions="none", library_size="none", likelihood="nb")


def find_version(folder: Path, version: str | None) -> str:
    """Version whose two official files lie in a folder.

    FileNotFoundError: if there is none, or not the one asked for. ValueError: if there are several to choose from.
    """
    versions = sorted(
        path.name.removesuffix(CONFIG_SUFFIX)
        for path in folder.glob(f"*{CONFIG_SUFFIX}")
        if path.with_name(path.name.removesuffix(CONFIG_SUFFIX) + WEIGHTS_SUFFIX).exists()
    )
    if not versions or (version is not None and version not in versions):
        wanted = version or "<version>"
        msg = (
            f"{folder} has no {wanted}{CONFIG_SUFFIX} with {wanted}{WEIGHTS_SUFFIX} beside it"
            f"{f'; it has {versions}' if versions else ''}. Both files of the official release are needed: "
            "download them into one folder."
        )
        raise FileNotFoundError(msg)
    if version is None and len(versions) > 1:
        msg = f"{folder} holds several versions: {', '.join(versions)}. Choose one: version={versions[-1]!r}."
        raise ValueError(msg)
    return version or versions[0]


def read_release(
    folder: Path, version: str | None = None
) -> tuple[CellPLMConfig, GeneVocabulary, dict[str, Tensor], Path]:
    """Read official files.

    Returns config, vocabulary, released tensors, and the file that held them.
    """
    version = find_version(folder, version)
    released = read_json(folder / f"{version}{CONFIG_SUFFIX}")
    weights = folder / f"{version}{WEIGHTS_SUFFIX}"
    content = read_torch_file(weights)
    if "model_state_dict" not in content or "gene_list" not in released:
        msg = (
            f"{weights} with its config is not a CellPLM release: 'model_state_dict' or 'gene_list' is missing. "
            "Download both files again."
        )
        raise CheckpointError(msg)
    tensors = tensors_of(content["model_state_dict"], source=str(weights))
    if not fits(genes := released["gene_list"], list[str]):
        msg = f"The config of {weights} must hold 'gene_list', a list of names. Download it again."
        raise CheckpointError(msg)
    return config_from_released(released), GeneVocabulary(genes), tensors, weights
