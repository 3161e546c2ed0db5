"""Observers of records: numbers for Prometheus, lines for people."""
