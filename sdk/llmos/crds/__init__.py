"""The CRDs, generated from `llmos.api`: `python -m llmos.crds` writes them, `llmos.crds.reference` documents them."""

from llmos.crds.converter import SchemaError, to_structural
from llmos.crds.definition import build_crd

__all__ = ["SchemaError", "build_crd", "to_structural"]
