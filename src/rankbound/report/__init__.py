"""Comparison of runs: a table, sentences, figures and one HTML file, all from run folders alone."""
