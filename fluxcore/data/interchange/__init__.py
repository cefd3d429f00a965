"""Data of other projects to data sets and back, one file a format."""

from fluxcore.data.interchange.exporting import EXPORTS, ExportReport, export
from fluxcore.data.interchange.importing import IMPORTS, ConvertReport, convert

__all__ = ["EXPORTS", "IMPORTS", "ConvertReport", "ExportReport", "convert", "export"]
