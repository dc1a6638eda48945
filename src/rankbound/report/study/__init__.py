"""The report of a study: one HTML file that can be read without knowing this project."""

from rankbound.report.study.page import render, study_report

__all__ = ["render", "study_report"]
