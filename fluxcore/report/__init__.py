"""Figures and one self-contained HTML page from run folders and a scored data set."""

from fluxcore.report.page import ReportFiles, build

__all__ = ["ReportFiles", "build"]
